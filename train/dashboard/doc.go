// Package dashboard shows training runs in a browser, while they run and after.
//
//	d, err := dashboard.Start("localhost:8080", "runs", dashboard.Options{})
//	…
//	defer d.Close()
//	fmt.Println(d.URL())
//
// It reads the metrics.jsonl (package metrics) of a folder and of the folders in
// it, and nothing else: no training loop knows of it, so no client, however slow,
// can hold one up. New lines reach the page as server-sent events.
//
// # Who may look
//
// A host that is not named in the address means this machine alone: ":8080" is
// 127.0.0.1:8080. A request is answered only if its Host is the one that was
// asked for, localhost, or the address that it came in by. Otherwise a web site
// could have its own name resolved to this machine and read along (DNS
// rebinding). Only GET and HEAD are answered, nothing is ever changed, and the
// page may load and run only what comes from here; samples are shown as text.
package dashboard

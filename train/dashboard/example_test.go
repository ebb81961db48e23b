package dashboard_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"

	"github.com/chainrule-go/chainrule/train/dashboard"
)

func ExampleStart() {
	dir, err := os.MkdirTemp("", "") // of runs
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	d, err := dashboard.Start("localhost:0", dir, dashboard.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	answer, err := http.Get(d.URL() + "runs") // or a browser: d.URL()
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(b))
	// Output: {"first":"","runs":[]}
}

// Init is the only program of the machine that avx512.sh emulates: it runs the
// commands that /commands lists, one a line, says how they ended, and turns the
// machine off.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

func main() {
	for dir, kind := range map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs", "/tmp": "tmpfs"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			fmt.Println(err)
		}
		if err := syscall.Mount(kind, dir, kind, 0, ""); err != nil {
			fmt.Println(dir, err)
		}
	}
	ran, failed := 0, 0
	commands, err := os.ReadFile("/commands")
	if err != nil {
		fmt.Println(err)
	}
	for line := range strings.Lines(string(commands)) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		fmt.Print("# ", line)
		c := exec.Command(words[0], words[1:]...) // the environment is the kernel's command line
		c.Dir, c.Stdout, c.Stderr = "/tmp", os.Stdout, os.Stderr
		ran++
		if err := c.Run(); err != nil {
			fmt.Println("#", words[0], err)
			failed++
		}
	}
	fmt.Println("emulated:", ran, "commands,", failed, "failed")
	time.Sleep(time.Second) // what the serial line has not sent is lost
	fmt.Println(syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
}

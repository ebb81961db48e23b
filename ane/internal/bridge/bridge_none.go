//go:build !cgo || !((darwin && arm64) || (linux && amd64 && anefake))

package bridge

import (
	"errors"
	"runtime"

	"github.com/chainrule-go/chainrule/ane/internal/device"
)

// Open returns an error: this build has no bridge.
func Open() (device.Device, error) {
	if runtime.GOOS == "darwin" && runtime.GOARCH == "arm64" {
		return nil, errors.New("ane: the Neural Engine needs a build with cgo (CGO_ENABLED=1 and a C compiler)")
	}
	return nil, errors.New("ane: the Neural Engine needs darwin/arm64 with cgo; this is " + runtime.GOOS + "/" + runtime.GOARCH)
}

// Methods returns nothing: this build has no bridge.
func Methods() []Method { return nil }

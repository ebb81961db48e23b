//go:build purego || (!amd64 && !arm64)

package gemm

import "github.com/chainrule-go/chainrule/internal/isa"

var kernels map[isa.Set]*kernel

const panelStep = 4 * portablePanel

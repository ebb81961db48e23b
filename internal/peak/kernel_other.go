//go:build purego || (!amd64 && !arm64)

package peak

import "github.com/chainrule-go/chainrule/internal/isa"

var kernels = map[isa.Set]*kernel{isa.Generic: {goLanes, fmaGo, readGo, updateGo}}

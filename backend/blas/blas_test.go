package blas

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/backendtest"
)

// gonum rounds every product and every sum, and adds to dw product by product;
// its dot products start at an aligned address.
func TestConformanceOfGonum(t *testing.T) {
	backendtest.Run(t, func() backend.Backend {
		b, err := New(Options{})
		require.NoError(t, err)
		return b
	}, backendtest.Options{Roundoff: 0x1p-22, Allocates: true, AddressDependent: true})
}

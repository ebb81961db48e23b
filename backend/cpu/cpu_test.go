package cpu

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/backendtest"
)

func TestConformance(t *testing.T) {
	backendtest.Run(t, func() backend.Backend {
		b, err := New(Options{})
		require.NoError(t, err)
		return b
	}, backendtest.Options{})
}

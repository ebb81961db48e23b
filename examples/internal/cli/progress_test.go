package cli

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestProgressInAPipeIsALineNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := NewProgress(&out, "reading", 10, 110)
		p.Set(20, "page 20")
		require.Empty(t, out.String())
		time.Sleep(ProgressEvery)
		p.Set(60, "page 60")
		p.Set(61, "page 61")
		p.Clear()
		require.Equal(t, "reading: page 60, 55%, 10s left\n", out.String())
		time.Sleep(ProgressEvery)
		p.Set(110, "page 110")
		require.Equal(t, "reading: page 60, 55%, 10s left\nreading: page 110, 100%, 0s left\n", out.String())
	})
}

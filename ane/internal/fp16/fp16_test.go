package fp16

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// value is the definition of binary16, in float64.
func value(h uint16) float64 {
	sign, e, m := 1.0, int(h>>10&31), float64(h&0x3ff)
	if h&0x8000 != 0 {
		sign = -1
	}
	switch {
	case e == 0:
		return sign * math.Ldexp(m, -24)
	case e < 31:
		return sign * math.Ldexp(1024+m, e-25)
	case m == 0:
		return math.Inf(int(sign))
	}
	return math.NaN()
}

func TestToIsTheDefinition(t *testing.T) {
	for h := range 1 << 16 {
		want, got := value(uint16(h)), To(uint16(h))
		if math.IsNaN(want) {
			require.True(t, math.IsNaN(float64(got)), "%#x", h)
		} else {
			require.Equal(t, want, float64(got), "%#x", h)
		}
		require.Equal(t, h&0x8000 != 0, math.Signbit(float64(got)), "%#x", h)
		require.Equal(t, !math.IsNaN(want) && !math.IsInf(want, 0), Finite(uint16(h)), "%#x", h)
	}
}

func TestFromOfAHalfIsThatHalf(t *testing.T) {
	for h := range 1 << 16 {
		if !math.IsNaN(value(uint16(h))) {
			require.Equal(t, uint16(h), From(To(uint16(h))))
		} else {
			require.Equal(t, uint16(h)|0x200, From(To(uint16(h))), "NaN, quiet, %#x", h)
		}
	}
}

// Between two neighbours, the float32 around their middle, which every
// rounding decision turns on.
func TestFromRoundsToTheNearestTiesToEven(t *testing.T) {
	for h := uint16(0); h < 0x7c00; h++ {
		lo, hi := value(h), value(h+1)
		if h == 0x7bff {
			hi = 65536 // where the next value would be
		}
		middle := float32((lo + hi) / 2)
		require.Equal(t, (lo+hi)/2, float64(middle))
		even := h + h&1
		for _, c := range []struct {
			f    float32
			want uint16
		}{
			{float32(lo), h},
			{math.Nextafter32(middle, 0), h},
			{middle, even},
			{math.Nextafter32(middle, 1e9), h + 1},
		} {
			require.Equal(t, c.want, From(c.f), "%v", c.f)
			require.Equal(t, c.want|0x8000, From(-c.f), "%v", -c.f)
		}
	}
	require.Equal(t, uint16(0x7c00), From(math.MaxFloat32))
	require.Equal(t, uint16(0xfc00), From(float32(math.Inf(-1))))
}

func BenchmarkFrom(b *testing.B) {
	x := make([]float32, 4096)
	y := make([]uint16, len(x))
	for i := range x {
		x[i] = float32(i) / 777
	}
	for b.Loop() {
		for i, v := range x {
			y[i] = From(v)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(x)), "ns/element")
}

func BenchmarkTo(b *testing.B) {
	x := make([]uint16, 4096)
	y := make([]float32, len(x))
	for i := range x {
		x[i] = uint16(i * 13)
	}
	for b.Loop() {
		for i, v := range x {
			y[i] = To(v)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(x)), "ns/element")
}

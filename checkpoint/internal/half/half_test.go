package half

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every half comes back, and so does what lies between two neighbours: below
// the middle the lower, above it the upper, and in it the even one.
func TestF16(t *testing.T) {
	for h := range uint16(0x7c00) {
		lo, hi := FromF16(h), FromF16(h+1)
		if h+1 == 0x7c00 {
			hi = 65536 // where it would be
		}
		middle := float32((float64(lo) + float64(hi)) / 2) // exact
		even := h + h&1
		for _, c := range []struct {
			v    float32
			want uint16
		}{
			{lo, h}, {math.Nextafter32(lo, hi), h}, {math.Nextafter32(middle, lo), h},
			{middle, even}, {math.Nextafter32(middle, hi), h + 1},
		} {
			require.Equal(t, c.want, ToF16(c.v), "%v", c.v)
			require.Equal(t, c.want|0x8000, ToF16(-c.v), "%v", -c.v)
		}
	}
	for _, v := range []float64{65536, math.MaxFloat32, math.Inf(1)} {
		require.Equal(t, uint16(0x7c00), ToF16(float32(v)))
		require.Equal(t, uint16(0xfc00), ToF16(float32(-v)))
	}
	for _, v := range []float32{math.SmallestNonzeroFloat32, 0x1p-126, 0x1p-25} {
		require.Equal(t, uint16(0), ToF16(v))
		require.Equal(t, uint16(0x8000), ToF16(-v))
	}
	require.True(t, math.IsInf(float64(FromF16(0x7c00)), 1))
	for bits := uint32(0x7f800001); bits < 0x80000000; bits += 0x1234 {
		for _, sign := range []uint32{0, 1 << 31} {
			h := ToF16(math.Float32frombits(bits | sign))
			require.True(t, math.IsNaN(float64(FromF16(h))))
			require.Equal(t, sign != 0, h>>15 == 1)
		}
	}
}

func TestBF16(t *testing.T) {
	for h := range uint16(0x7f80) {
		lo, hi := FromBF16(h), FromBF16(h+1)
		middle := math.Float32frombits(uint32(h)<<16 | 0x8000)
		even := h + h&1
		for _, c := range []struct {
			v    float32
			want uint16
		}{
			{lo, h}, {math.Nextafter32(lo, hi), h}, {math.Nextafter32(middle, lo), h},
			{middle, even}, {math.Nextafter32(middle, hi), h + 1},
		} {
			require.Equal(t, c.want, ToBF16(c.v), "%v", c.v)
			require.Equal(t, c.want|0x8000, ToBF16(-c.v), "%v", -c.v)
		}
	}
	require.True(t, math.IsInf(float64(FromBF16(0x7f80)), 1))
	require.Equal(t, uint16(0x7f80), ToBF16(float32(math.Inf(1))))
	for bits := uint32(0x7f800001); bits < 0x80000000; bits += 0x1234 {
		h := ToBF16(math.Float32frombits(bits | 1<<31))
		require.True(t, math.IsNaN(float64(FromBF16(h))))
		require.Equal(t, uint16(1), h>>15)
	}
}

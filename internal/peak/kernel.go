package peak

// kernel is the inner loops for one instruction set.
type kernel struct {
	lanes  int                                           // of acc that fma works on
	fma    func(acc *[most]float32, x, y float32, n int) // n multiply-adds a lane
	read   func(a []float32) float32                     // the sum of whole blocks
	update func(p, g, m, v []float32)                    // p += g, m += g, v += g on whole blocks
}

const (
	most        = 24 * 16 // accumulators: 24 of the widest registers
	blockFloats = 64      // what read and update take at a time
)

// goLanes is what Go's compiler keeps in registers.
const goLanes = 12

// fmaGo computes acc·x + y, because in acc + x·y the compiler would multiply
// only once.
func fmaGo(acc *[most]float32, x, y float32, n int) {
	a0, a1, a2, a3, a4, a5 := acc[0], acc[1], acc[2], acc[3], acc[4], acc[5]
	a6, a7, a8, a9, a10, a11 := acc[6], acc[7], acc[8], acc[9], acc[10], acc[11]
	for range n {
		a0, a1, a2, a3 = a0*x+y, a1*x+y, a2*x+y, a3*x+y
		a4, a5, a6, a7 = a4*x+y, a5*x+y, a6*x+y, a7*x+y
		a8, a9, a10, a11 = a8*x+y, a9*x+y, a10*x+y, a11*x+y
	}
	acc[0], acc[1], acc[2], acc[3], acc[4], acc[5] = a0, a1, a2, a3, a4, a5
	acc[6], acc[7], acc[8], acc[9], acc[10], acc[11] = a6, a7, a8, a9, a10, a11
}

func readGo(a []float32) float32 {
	var s0, s1, s2, s3, s4, s5, s6, s7 float32
	for ; len(a) >= 8; a = a[8:] {
		b := (*[8]float32)(a)
		s0, s1, s2, s3 = s0+b[0], s1+b[1], s2+b[2], s3+b[3]
		s4, s5, s6, s7 = s4+b[4], s5+b[5], s6+b[6], s7+b[7]
	}
	return s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7
}

func updateGo(p, g, m, v []float32) {
	g, m, v = g[:len(p)], m[:len(p)], v[:len(p)]
	for i, x := range g {
		p[i] += x
		m[i] += x
		v[i] += x
	}
}

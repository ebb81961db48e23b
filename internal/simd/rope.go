package simd

// Rope rotates the pairs of x, heads of 2·len(cos) elements, by the angles of
// cos and sign·sin.
func Rope(x, cos, sin []float32, sign float32) {
	if len(cos) == 0 {
		return
	}
	heads := len(x) / (2 * len(cos))
	kernelRope(x[:heads*2*len(cos)], cos, sin[:len(cos)], heads, sign)
}

func goRope(x, cos, sin []float32, heads int, sign float32) {
	for range heads {
		for i, c := range cos {
			s := sign * sin[i]
			a, b := x[2*i], x[2*i+1]
			x[2*i] = a*c - b*s
			x[2*i+1] = a*s + b*c
		}
		x = x[2*len(cos):]
	}
}

//go:build !purego

package simd

// expNEON is
//
//	for i := range n { y[i] = exp(x[i]*scale - m); sum += float64(y[i]) }
//
//go:noescape
func expNEON(y *float32, x *float32, n int, scale float32, m float32) (sum float64)

// sumExpNEON is
//
//	for i := range n { sum += float64(exp(x[i] - m)) }
//
//go:noescape
func sumExpNEON(x *float32, n int, m float32) (sum float64)

// scaledExpNEON is
//
//	for i := range n { y[i] = a * exp(x[i] - m); sum += float64(y[i]) }
//
//go:noescape
func scaledExpNEON(y *float32, x *float32, n int, m float32, a float32) (sum float64)

// maxNEON is
//
//	m = -Inf; for i := range n { if x[i] > m { m = x[i] } }
//
//go:noescape
func maxNEON(x *float32, n int) (m float32)

// sumSquaresNEON is
//
//	for i := range n { sum += float64(x[i]) * float64(x[i]) }
//
//go:noescape
func sumSquaresNEON(x *float32, n int) (sum float64)

// dotNEON is
//
//	for i := range n { sum += float64(x[i] * y[i]) }
//
//go:noescape
func dotNEON(x *float32, y *float32, n int) (sum float64)

// axpyNEON is
//
//	for i := range n { y[i] += a * x[i] }
//
//go:noescape
func axpyNEON(y *float32, a float32, x *float32, n int)

// scaleNEON is
//
//	for i := range n { x[i] *= a }
//
//go:noescape
func scaleNEON(x *float32, n int, a float32)

// addNEON is
//
//	for i := range n { out[i] = a[i] + b[i] }
//
//go:noescape
func addNEON(out *float32, a *float32, b *float32, n int)

// swigluNEON is
//
//	for i := range n { out[i] = h1[i] / (1 + exp(-h1[i])) * h3[i] }
//
//go:noescape
func swigluNEON(out *float32, h1 *float32, h3 *float32, n int)

// adamWNEON is
//
//	for i := range n { d := grad[i]*f[0]; m[i] = f[1]*m[i] + f[2]*d; v[i] = f[3]*v[i] + f[4]*(d*d); p[i] -= f[5]*p[i] + f[6]*m[i]/(sqrt(v[i])*f[7]+f[8]); if zero { grad[i] = 0 } }
//
//go:noescape
func adamWNEON(p *float32, grad *float32, m *float32, v *float32, n int, f *float32, zero bool)

//go:build purego || (!amd64 && !arm64)

package simd

func kernelExp(y, x []float32, scale, m float32) float64   { return goExp(y, x, scale, m) }
func kernelSumExp(x []float32, m float32) float64          { return goSumExp(x, m) }
func kernelScaledExp(y, x []float32, m, a float32) float64 { return goScaledExp(y, x, m, a) }
func kernelMax(x []float32) float32                        { return goMax(x) }
func kernelSumSquares(x []float32) float64                 { return goSumSquares(x) }
func kernelDot(x, y []float32) float64                     { return goDot(x, y) }
func kernelDot3(x, y, z []float32) float64                 { return goDot3(x, y, z) }
func kernelAxpy(y []float32, a float32, x []float32)       { goAxpy(y, a, x) }
func kernelScale(x []float32, a float32)                   { goScale(x, a) }
func kernelAdd(out, a, b []float32)                        { goAdd(out, a, b) }
func kernelClear(x []float32)                              { clear(x) }
func kernelNormalize(y, x, w []float32, r float32)         { goNormalize(y, x, w, r) }
func kernelNormalizeBackward(dx, dy, x, w []float32, r, c float32) {
	goNormalizeBackward(dx, dy, x, w, r, c)
}
func kernelAddWide(sum []float64, x []float32)                   { goAddWide(sum, x) }
func kernelAddProducts(sum []float64, y, x []float32, r float32) { goAddProducts(sum, y, x, r) }
func kernelSwiglu(out, h1, h3 []float32)                         { goSwiglu(out, h1, h3) }
func kernelSwigluBackward(dh1, dh3, dout, h1, h3 []float32)      { goSwigluBackward(dh1, dh3, dout, h1, h3) }
func kernelRope(x, cos, sin []float32, heads int, sign float32)  { goRope(x, cos, sin, heads, sign) }
func kernelAdamW(p, g, m, v []float32, f *AdamW)                 { goAdamW(p, g, m, v, f) }
func kernelExpCols(x []float32, past int, scale float32, most []float32, sum []float64) {
	goExpCols(x, past, scale, most, sum)
}
func kernelDSoftmaxCols(p, dp []float32, past int, scale float32, lse, norm []float32) {
	goDSoftmaxCols(p, dp, past, scale, lse, norm)
}
func kernelCopyRows(y []float32, ldy int, x []float32, ldx, n, cols int) {
	goCopyRows(y, ldy, x, ldx, n, cols)
}
func kernelScaleRows(y []float32, ldy int, x []float32, ldx, cols int, r []float32) {
	goScaleRows(y, ldy, x, ldx, cols, r)
}
func kernelDotRows(y, x, w []float32, ld int) { goDotRows(y, x, w, ld) }
func kernelSumRows(y, p, w []float32, ld int) { goSumRows(y, p, w, ld) }
func kernelAdamTraffic(p, g, m, v []float32)  { goAdamTraffic(p, g, m, v) }

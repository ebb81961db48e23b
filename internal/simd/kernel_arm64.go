//go:build !purego

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
func kernelDSoftmax(ds, p, dp []float32, norm, mean, scale float32) {
	goDSoftmax(ds, p, dp, norm, mean, scale)
}

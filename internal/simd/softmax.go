package simd

// ExpRows makes scores the terms of softmax, row by row under the mask: row i
// is the n+i elements from x[i·ld] on, most[i] becomes their largest times
// scale, and
//
//	x ← exp(x·scale − most[i]),  sum[i] ← Σ x
//
// as Max and ExpScaleSub compute them. There are len(most) rows, and as many
// sums.
func ExpRows(x []float32, ld, n int, scale float32, most []float32, sum []float64) {
	if rows := len(most); rows > 0 {
		_ = x[(rows-1)*ld:][:n+rows-1]
		kernelExpRows(x, ld, n, scale, most, sum[:rows])
	}
}

func goExpRows(x []float32, ld, n int, scale float32, most []float32, sum []float64) {
	for i := range most {
		row := x[i*ld:][:n+i]
		most[i] = scale * kernelMax(row)
		sum[i] = kernelExp(row, row, scale, most[i])
	}
}

// DSoftmaxRows is the backward of softmax, row by row as in ExpRows: p is the
// scores and becomes the weights, dp becomes the gradient of the scores.
//
//	p ← exp(p·scale − lse[i]),  norm = 1/Σ p,  mean = norm·Σ p·dp
//	p ← p·norm,  dp ← p·(dp − mean)·scale
//
// Σ p is 1 but for the rounding of lse.
func DSoftmaxRows(p, dp []float32, ld, n int, scale float32, lse []float32) {
	if rows := len(lse); rows > 0 {
		_, _ = p[(rows-1)*ld:][:n+rows-1], dp[(rows-1)*ld:][:n+rows-1]
		kernelDSoftmaxRows(p, dp, ld, n, scale, lse)
	}
}

func goDSoftmaxRows(p, dp []float32, ld, n int, scale float32, lse []float32) {
	for i, m := range lse {
		p, dp := p[i*ld:][:n+i], dp[i*ld:][:n+i]
		sum := kernelExp(p, p, scale, m)
		mean := kernelDot(p, dp) / sum
		kernelDSoftmax(dp, p, dp, float32(1/sum), float32(mean), scale)
	}
}

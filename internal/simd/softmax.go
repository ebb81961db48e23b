package simd

import "math"

// ScoreCols is how far apart the rows of ExpCols and DSoftmaxCols are, and how
// many columns they have at most. Columns are computed in sixteens.
const ScoreCols = 64

// ExpCols makes scores the terms of softmax, column by column under the mask:
// column i of x is seen down to row past+i. most[i] becomes its largest element
// times scale, and
//
//	x ← exp(x·scale − most[i]),  sum[i] ← Σ x
//
// where it is seen; four of these terms at a time are added in float32. In the
// rows below, to the last of past+len(most), x becomes 0. There are as many sums
// as len(most), a multiple of 16.
func ExpCols(x []float32, past int, scale float32, most []float32, sum []float64) {
	if cols := len(most); cols > 0 {
		checkScores(x, cols, past)
		kernelExpCols(x, past, scale, most, sum[:cols])
	}
}

func checkScores(x []float32, cols, past int) {
	if cols%16 != 0 || cols > ScoreCols || past < 0 {
		panic("chainrule: simd: not a matrix of scores")
	}
	_ = x[(past+cols-1)*ScoreCols:][:cols]
}

func goExpCols(x []float32, past int, scale float32, most []float32, sum []float64) {
	cols := len(most)
	for i := range cols {
		most[i], sum[i] = float32(math.Inf(-1)), 0
	}
	for j := range past + cols {
		for i, v := range x[j*ScoreCols:][:cols] {
			if i >= j-past && v > most[i] {
				most[i] = v
			}
		}
	}
	for i := range most {
		most[i] *= scale
	}
	expCols(x, past, scale, most, sum)
}

// expCols sets x to exp(x·scale − m[i]), row by row.
func expCols(x []float32, past int, scale float32, m []float32, sum []float64) {
	for j := range past + len(m) {
		row, hidden := x[j*ScoreCols:][:len(m)], max(0, j-past)
		clear(row[:hidden])
		for i := hidden; i < len(row); i++ {
			row[i] = row[i]*scale - m[i]
		}
		kernelExp(row[hidden:], row[hidden:], 1, 0)
		for i, v := range row {
			sum[i] += float64(v)
		}
	}
}

// DSoftmaxCols is the backward of softmax, column by column as in ExpCols: p is
// the scores, dp the gradient of the weights, which becomes that of the scores.
//
//	p ← exp(p·scale − lse[i]),  norm[i] ← 1/Σ p
//	dp ← p·norm[i]·(dp − norm[i]·Σ p·dp)·scale
//
// The weights are p·norm[i]: Σ p is 1 but for the rounding of lse.
func DSoftmaxCols(p, dp []float32, past int, scale float32, lse, norm []float32) {
	if cols := len(lse); cols > 0 {
		checkScores(p, cols, past)
		checkScores(dp, cols, past)
		kernelDSoftmaxCols(p, dp, past, scale, lse, norm[:cols])
	}
}

func goDSoftmaxCols(p, dp []float32, past int, scale float32, lse, norm []float32) {
	var sum, dot [ScoreCols]float64
	var by, mean [ScoreCols]float32
	expCols(p, past, scale, lse, sum[:])
	for j := range past + len(lse) {
		p, dp := p[j*ScoreCols:], dp[j*ScoreCols:]
		for i := max(0, j-past); i < len(lse); i++ {
			dot[i] += float64(p[i] * dp[i])
		}
	}
	for i := range lse {
		norm[i] = float32(1 / sum[i])
		by[i] = float32(float64(scale) / sum[i])
		mean[i] = float32(dot[i] / sum[i] * float64(by[i])) // rounded once: it cancels the dp of a large p
	}
	for j := range past + len(lse) {
		p, dp := p[j*ScoreCols:], dp[j*ScoreCols:]
		clear(dp[:max(0, j-past)])
		for i := max(0, j-past); i < len(lse); i++ {
			dp[i] = p[i] * (dp[i]*by[i] - mean[i])
		}
	}
}

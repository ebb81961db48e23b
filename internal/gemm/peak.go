package gemm

// Peak runs n times as many independent fused multiply-adds as the kernels
// have accumulators, and returns how many operations that is: what a product
// is measured against. It is 0 without kernels.
func Peak(n int) (flops float64) {
	if best == nil {
		return 0
	}
	best.fma(n)
	return float64(n) * float64(best.fmas) * 2
}

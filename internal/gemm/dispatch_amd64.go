//go:build !purego

package gemm

import "github.com/chainrule-go/chainrule/internal/isa"

var kernels = map[isa.Set]*kernel{
	isa.AVX2: {
		tile:    tile{6, 16, gemmAVX2_6x16},
		small:   small{6, 16, smallAVX2_6x16},
		packedA: 8 << 10, // almost all: measured with half a megabyte of second-level cache
		gap:     line,    // 6·256 floats are 96 lines, of 64 sets
		spread:  true,
		copy:    copyAVX2, transpose: transposeAVX2, lanes: 8,
		dot: dotAVX2_2x4, dotRows: 2, dotMost: 16,
		rank:      rankAVX2,
		strip:     stripAVX2_6x16,
		twice:     twiceAVX2_6x16,
		stripRows: 18, stripPaged: 6, stripK: 24, stripCached: 24, stripDepth: 48, stripParts: 2, apart: true,
		thin: []thinTile{{8, 4, 2, true, true, streamsAVX2_8x4}, {6, 8, 2, true, true, streamsAVX2_6x8},
			{4, 12, 2, true, true, streamsAVX2_4x12}, {6, 16, 1, false, true, streamsAVX2_6x16}},
		thinLeast: 1, thinMost: 64,
	},
	isa.AVX512: {
		tile:    tile{9, 48, gemmAVX512_9x48}, // 12 loads for 27 multiply-adds, 14x32 has 16 for 28: a higher clock
		small:   small{6, 64, smallAVX512_6x64},
		packedA: 256 << 10, // 8 lines a set of a cache of 2048 sets
		copy:    copyAVX512, transpose: transposeAVX512, lanes: 16,
		dot: dotAVX512_6x4, dotRows: 6, dotMost: 64,
		rank:      rankAVX2, // faster on a Zen 4 than with longer vectors
		strip:     stripAVX512_9x48,
		twice:     twiceAVX512_9x48,
		stripRows: 24, stripPaged: 24, stripK: 96, stripCached: 48, stripDepth: 32, apart: true,
		// Up to twelve rows, half vectors in pairs: no lanes are idle. Few rows of W at a
		// time: as many pages are fetched in turn.
		thin: []thinTile{{5, 4, 2, true, false, thinAVX2_5x4}, {6, 8, 2, true, false, thinAVX2_6x8},
			{4, 12, 2, true, false, thinAVX2_4x12}, {8, 16, 2, false, false, thinAVX512_8x16},
			{8, 24, 2, true, false, thinAVX512_8x24}, {14, 32, 1, false, false, thinAVX512_14x32}, {8, 48, 1, false, false, thinAVX512_8x48}},
		thinLeast: 1, thinMost: 64,
	},
}

const panelStep = 16 // a vector of AVX-512, a panel of AVX2

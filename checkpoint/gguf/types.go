package gguf

import "fmt"

// Type is how a tensor's elements are stored: one by one, or quantized in
// blocks of a row that share a scale. The values are ggml's.
type Type uint32

// The types that can be read as numbers.
const (
	F32  Type = 0
	F16  Type = 1
	Q4_0 Type = 2
	Q4_1 Type = 3
	Q5_0 Type = 6
	Q5_1 Type = 7
	Q8_0 Type = 8
	Q4_K Type = 12
	Q5_K Type = 13
	Q6_K Type = 14
	BF16 Type = 30
)

// layout is how a type's elements lie in memory.
type layout struct {
	name        string
	block, size int64 // elements of a block, and its bytes
}

// layouts has all that a file may hold. 4, 5, 31 to 33 and 36 to 38 were
// types once; 9 and 15 are of results, not of weights.
var layouts = [...]layout{
	F32: {"F32", 1, 4}, F16: {"F16", 1, 2}, BF16: {"BF16", 1, 2},
	Q4_0: {"Q4_0", 32, 18}, Q4_1: {"Q4_1", 32, 20}, Q5_0: {"Q5_0", 32, 22}, Q5_1: {"Q5_1", 32, 24}, Q8_0: {"Q8_0", 32, 34},
	10: {"Q2_K", 256, 84}, 11: {"Q3_K", 256, 110}, Q4_K: {"Q4_K", 256, 144}, Q5_K: {"Q5_K", 256, 176}, Q6_K: {"Q6_K", 256, 210},
	16: {"IQ2_XXS", 256, 66}, 17: {"IQ2_XS", 256, 74}, 18: {"IQ3_XXS", 256, 98}, 19: {"IQ1_S", 256, 50},
	20: {"IQ4_NL", 32, 18}, 21: {"IQ3_S", 256, 110}, 22: {"IQ2_S", 256, 82}, 23: {"IQ4_XS", 256, 136},
	24: {"I8", 1, 1}, 25: {"I16", 1, 2}, 26: {"I32", 1, 4}, 27: {"I64", 1, 8}, 28: {"F64", 1, 8}, 29: {"IQ1_M", 256, 56},
	34: {"TQ1_0", 256, 54}, 35: {"TQ2_0", 256, 66}, 39: {"MXFP4", 32, 17}, 40: {"NVFP4", 64, 36},
}

// layout returns the layout of t; a block of 0 elements if it is no type.
func (t Type) layout() layout {
	if int64(t) >= int64(len(layouts)) {
		return layout{}
	}
	return layouts[t]
}

// String returns ggml's name of the type.
func (t Type) String() string {
	if l := t.layout(); l.block > 0 {
		return l.name
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Block returns how many elements of a row share a block: 1 if they are stored
// one by one, 0 if t is no type.
func (t Type) Block() int { return int(t.layout().block) }

// Bytes returns the size of n elements, whole blocks, 0 if t is no type.
func (t Type) Bytes(n int) int64 {
	l := t.layout()
	return int64(n) / max(l.block, 1) * l.size
}

// valueType is the type of a value of the metadata.
type valueType uint32

const (
	vUint8 valueType = iota
	vInt8
	vUint16
	vInt16
	vUint32
	vInt32
	vFloat32
	vBool
	vString
	vArray
	vUint64
	vInt64
	vFloat64
)

var valueNames = [...]string{"uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "string",
	"array", "uint64", "int64", "float64"}

// least returns the bytes of a value of the type, of a string the fewest; 0 for
// what is no type.
func (t valueType) least() int64 {
	switch t {
	case vUint8, vInt8, vBool:
		return 1
	case vUint16, vInt16:
		return 2
	case vUint32, vInt32, vFloat32:
		return 4
	case vString, vUint64, vInt64, vFloat64:
		return 8
	case vArray:
		return 12
	}
	return 0
}

// String returns the specification's name of the type, in lower case.
func (t valueType) String() string {
	if int64(t) < int64(len(valueNames)) {
		return valueNames[t]
	}
	return fmt.Sprintf("type %d", uint32(t))
}

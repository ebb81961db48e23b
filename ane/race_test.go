//go:build race

package ane

// The race detector makes memory ten times slower: tests of numbers alone are
// left out.
const raced = true

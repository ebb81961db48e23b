//go:build !race

package ane

const raced = false

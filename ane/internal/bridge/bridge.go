// Package bridge is the Neural Engine of a Mac, through Apple's private
// framework: see bridge.h. In a build without cgo, or for another system, Open
// says so.
//
// With the build tag anefake it runs on Linux, against an Objective-C runtime
// of its own (fake.c) whose Neural Engine is the simulator.
//
// It has not yet run on Apple hardware.
package bridge

// Method is a method of the framework: the type that the bridge calls it with,
// and the one that this system has, both as the Objective-C runtime encodes
// them. Got is empty if there is no such method.
type Method struct{ Class, Selector, Want, Got string }

// The controls of the fake Objective-C runtime.
#pragma once
#include <stddef.h>

int fake_live(void);                           // objects that exist
int fake_calls(void);                          // calls that could fail, since fake_fail
void fake_fail(int call);                      // the call that fails, from 0; -1: none
void fake_hide(int class_index, int method);   // what does not exist; -1: nothing
void fake_hide_framework(int hide);             // all of it
void fake_change(int method, const char *type); // a method with another type; -1: none

// In Go: a program's number or -1, and 0 or -1; why says what is wrong.
int fakeCompile(void *text, long n, char *name, char *why, long size);
int fakeLoad(int program, char *why, long size);
int fakeEval(int program, void *in, long in_bytes, void *out, long out_bytes, char *why, long size);
void fakeUnload(int program);
void fakeDrop(int program);

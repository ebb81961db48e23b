// What bridge.c uses of <stdio.h>, to compile it for a Mac without its SDK.
#pragma once
#include <stddef.h>
int snprintf(char *, size_t, const char *, ...);

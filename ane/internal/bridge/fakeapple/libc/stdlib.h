// What bridge.c uses of <stdlib.h>, to compile it for a Mac without its SDK.
#pragma once
#include <stddef.h>
void *malloc(size_t);
void *calloc(size_t, size_t);
void free(void *);
_Noreturn void abort(void);

// What bridge.c uses of <string.h>, to compile it for a Mac without its SDK.
#pragma once
#include <stddef.h>
size_t strlen(const char *);
void *memset(void *, int, size_t);

// What bridge.c uses of <dlfcn.h>, to compile it for a Mac without its SDK.
#pragma once
#include <stddef.h>
#define RTLD_NOW 2
void *dlopen(const char *, int);
char *dlerror(void);

// The dynamic linker of the fake runtime: it has the framework, or not.
#pragma once
#define RTLD_NOW 2
#define dlopen fake_dlopen
#define dlerror fake_dlerror
void *fake_dlopen(const char *path, int mode);
char *fake_dlerror(void);

// The Neural Engine through Apple's private framework, in plain C: libobjc,
// CoreFoundation and IOSurface. Functions that return char * return NULL, or
// what went wrong, for the caller to free.
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef struct ane_model ane_model;     // an _ANEInMemoryModel
typedef struct ane_surface ane_surface; // an IOSurface
typedef struct ane_request ane_request; // an _ANERequest of one input and one output

// ane_open finds the framework, its classes and methods, and checks the type
// of each method. It may be called again.
char *ane_open(void);

// ane_method describes method i, from 0 on; 0 behind the last. got is NULL if
// the class has no such method.
int ane_method(int i, const char **class_name, const char **selector, const char **want, const char **got);

// ane_model_new makes a model of a MIL text. Before ane_model_compile, the
// text must lie in $TMPDIR/<ane_model_hex>/model.mil, beside a directory
// weights.
char *ane_model_new(const void *text, size_t n, ane_model **model);
const char *ane_model_hex(const ane_model *);
char *ane_model_compile(ane_model *);
char *ane_model_load(ane_model *);
char *ane_model_unload(ane_model *);
void ane_model_free(ane_model *);

char *ane_surface_new(size_t bytes, ane_surface **surface); // zeroed
void ane_surface_free(ane_surface *);
// ane_surface_lock returns the memory, or NULL.
uint16_t *ane_surface_lock(ane_surface *, int read_only);
int ane_surface_unlock(ane_surface *, int read_only); // 0, or an IOReturn

char *ane_request_new(ane_model *, ane_surface *in, ane_surface *out, ane_request **request);
char *ane_request_eval(ane_request *);
void ane_request_free(ane_request *);

// A block is a matrix [rows, cols]: element (r,c) is f[r·stride + c], and
// h[offset + r·ld + c], or h[offset + c·ld + r] if transposed. Row r is scaled
// by scale · row_scale[r]; row_scale may be NULL.
void ane_put(uint16_t *h, const float *f, ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t stride, ptrdiff_t offset,
	ptrdiff_t ld, int transposed, const float *row_scale, float scale);
// ane_get returns the bits of the largest |h|; infinities and NaN are above
// all others. It adds to f if add is not 0.
uint16_t ane_get(float *f, const uint16_t *h, ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t stride, ptrdiff_t offset,
	ptrdiff_t ld, int transposed, int add, const float *row_scale, float scale);

//go:build cgo && ((darwin && arm64) || (linux && amd64 && anefake))

#ifdef __x86_64__ // of the tests
#pragma GCC target("f16c")
#endif

#include "bridge.h"

#include <CoreFoundation/CoreFoundation.h>
#include <IOSurface/IOSurface.h>
#include <dlfcn.h>
#include <objc/message.h>
#include <objc/runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void *objc_autoreleasePoolPush(void);
extern void objc_autoreleasePoolPop(void *);

#define FRAMEWORK "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine"
#define QOS 21u // QOS_CLASS_DEFAULT

// The classes, and the methods that are called: whether of the class itself,
// a name, the selector, its type as the runtime encodes it (without the
// offsets), and as C has it. The check and the calls are made of this table.
enum { DESCRIPTOR, MODEL, REQUEST, SURFACE, CLASSES };
static const char *const class_names[CLASSES] = {
	"_ANEInMemoryModelDescriptor", "_ANEInMemoryModel", "_ANERequest", "_ANEIOSurfaceObject"};

#define METHODS(X) \
	X(DESCRIPTOR, 1, describe, "modelWithMILText:weights:optionsPlist:", "@@:@@@", id, (id, SEL, id, id, id)) \
	X(MODEL, 1, make, "inMemoryModelWithDescriptor:", "@@:@", id, (id, SEL, id)) \
	X(MODEL, 0, hex, "hexStringIdentifier", "@@:", id, (id, SEL)) \
	X(MODEL, 0, compile, "compileWithQoS:options:error:", "B@:I@^@", BOOL, (id, SEL, unsigned, id, id *)) \
	X(MODEL, 0, load, "loadWithQoS:options:error:", "B@:I@^@", BOOL, (id, SEL, unsigned, id, id *)) \
	X(MODEL, 0, unload, "unloadWithQoS:error:", "B@:I^@", BOOL, (id, SEL, unsigned, id *)) \
	X(MODEL, 0, eval, "evaluateWithQoS:options:request:error:", "B@:I@@^@", BOOL, (id, SEL, unsigned, id, id, id *)) \
	X(SURFACE, 1, wrap, "objectWithIOSurface:", "@@:^{__IOSurface=}", id, (id, SEL, IOSurfaceRef)) \
	X(REQUEST, 1, request, \
		"requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:", "@@:@@@@@@@", \
		id, (id, SEL, id, id, id, id, id, id, id))

#define X(c, meta, name, selector, type, result, arguments) M_##name,
enum { METHODS(X) N_METHODS };
#undef X

static const struct {
	int class_index, meta;
	const char *selector, *type;
} methods[N_METHODS] = {
#define X(c, meta, name, selector, type, result, arguments) {c, meta, selector, type},
	METHODS(X)
#undef X
};

#define X(c, meta, name, selector, type, result, arguments) typedef result(*fn_##name) arguments;
METHODS(X)
#undef X

static id classes[CLASSES];
static SEL selectors[N_METHODS];
static CFDictionaryRef no_options;

// SEND(name, receiver, arguments…) is typed by the table. The compiler must
// not know that it calls a function of another type.
static void *volatile msg_send = (void *)objc_msgSend;
#define SEND(name, receiver, ...) ((fn_##name)msg_send)(receiver, selectors[M_##name], ##__VA_ARGS__)

// failure never returns NULL, which would be success.
static char *failure(const char *what, const char *why) {
	size_t n = strlen(what) + strlen(why) + 3;
	char *s = malloc(n);
	if (!s) abort();
	snprintf(s, n, "%s: %s", what, why);
	return s;
}

// described is failure with the description of an NSError, which may be nil.
static char *described(const char *what, id error) {
	enum { MOST = 1 << 16 }; // the compiler's have errors in them
	CFStringRef d = error ? CFCopyDescription((CFTypeRef)error) : NULL;
	if (!d) return failure(what, "no error was given");
	char *text = malloc(MOST);
	int fits = text && CFStringGetCString(d, text, MOST, kCFStringEncodingUTF8);
	char *why = failure(what, fits ? text : "an error of more than 64 KB");
	free(text);
	CFRelease(d);
	return why;
}

// same_type compares an encoding with one of the table. The runtime's has
// offsets; BOOL is B, on some systems c.
static int same_type(const char *got, const char *want) {
	for (;; got++, want++) {
		while (*got >= '0' && *got <= '9') got++;
		if (*got != *want && !(*got == 'c' && *want == 'B')) return 0;
		if (!*got) return 1;
	}
}

static const char *type_of(int i) {
	Class c = (Class)objc_getClass(class_names[methods[i].class_index]);
	if (!c) return NULL;
	SEL s = sel_registerName(methods[i].selector);
	Method m = methods[i].meta ? class_getClassMethod(c, s) : class_getInstanceMethod(c, s);
	return m ? method_getTypeEncoding(m) : NULL;
}

static char *find_all(void) {
	if (!dlopen(FRAMEWORK, RTLD_NOW)) {
		const char *why = dlerror();
		return failure("the framework was not found", why ? why : FRAMEWORK);
	}
	for (int i = 0; i < CLASSES; i++) {
		classes[i] = (id)objc_getClass(class_names[i]);
		if (!classes[i]) return failure("class not found", class_names[i]);
	}
	for (int i = 0; i < N_METHODS; i++) {
		const char *type = type_of(i);
		if (type && same_type(type, methods[i].type)) {
			selectors[i] = sel_registerName(methods[i].selector);
			continue;
		}
		char text[512];
		snprintf(text, sizeof text, "%c[%s %s] has the type %s, want %s", methods[i].meta ? '+' : '-',
			class_names[methods[i].class_index], methods[i].selector, type ? type : "(no such method)", methods[i].type);
		return failure("another version of the framework", text);
	}
	if (!no_options) {
		no_options = CFDictionaryCreate(kCFAllocatorDefault, NULL, NULL, 0,
			&kCFTypeDictionaryKeyCallBacks, &kCFTypeDictionaryValueCallBacks);
		if (!no_options) return failure("CFDictionaryCreate", "no memory");
	}
	return NULL;
}

char *ane_open(void) {
	void *pool = objc_autoreleasePoolPush();
	char *why = find_all();
	objc_autoreleasePoolPop(pool);
	return why;
}

int ane_method(int i, const char **class_name, const char **selector, const char **want, const char **got) {
	if (i >= N_METHODS) return 0;
	*class_name = class_names[methods[i].class_index];
	*selector = methods[i].selector;
	*want = methods[i].type;
	void *pool = objc_autoreleasePoolPush();
	*got = type_of(i);
	objc_autoreleasePoolPop(pool);
	return 1;
}

struct ane_model {
	id object;
	char hex[256];
};

char *ane_model_new(const void *text, size_t n, ane_model **model) {
	void *pool = objc_autoreleasePoolPush();
	char *why = NULL;
	CFDataRef data = CFDataCreate(kCFAllocatorDefault, text, (CFIndex)n);
	id descriptor = NULL, object = NULL, hex = NULL;
	ane_model *m = calloc(1, sizeof *m);
	if (!data || !m) {
		why = failure("a copy of the text", "no memory");
	} else if (!(descriptor = SEND(describe, classes[DESCRIPTOR], (id)data, (id)no_options, NULL))) {
		why = failure(methods[M_describe].selector, "returned nil: the text was refused");
	} else if (!(object = SEND(make, classes[MODEL], descriptor))) {
		why = failure(methods[M_make].selector, "returned nil");
	} else if (!(hex = SEND(hex, object)) ||
		!CFStringGetCString((CFStringRef)hex, m->hex, sizeof m->hex, kCFStringEncodingUTF8)) {
		why = failure(methods[M_hex].selector, "returned nil, or more than 255 bytes");
	} else {
		m->object = (id)CFRetain((CFTypeRef)object);
		*model = m;
		m = NULL;
	}
	free(m);
	if (data) CFRelease(data);
	objc_autoreleasePoolPop(pool);
	return why;
}

const char *ane_model_hex(const ane_model *m) { return m->hex; }

char *ane_model_compile(ane_model *m) {
	void *pool = objc_autoreleasePoolPush();
	id error = NULL;
	char *why = SEND(compile, m->object, QOS, (id)no_options, &error) ? NULL : described("compile", error);
	objc_autoreleasePoolPop(pool);
	return why;
}

char *ane_model_load(ane_model *m) {
	void *pool = objc_autoreleasePoolPush();
	id error = NULL;
	char *why = SEND(load, m->object, QOS, (id)no_options, &error) ? NULL : described("load", error);
	objc_autoreleasePoolPop(pool);
	return why;
}

char *ane_model_unload(ane_model *m) {
	void *pool = objc_autoreleasePoolPush();
	id error = NULL;
	char *why = SEND(unload, m->object, QOS, &error) ? NULL : described("unload", error);
	objc_autoreleasePoolPop(pool);
	return why;
}

void ane_model_free(ane_model *m) {
	void *pool = objc_autoreleasePoolPush();
	CFRelease((CFTypeRef)m->object);
	free(m);
	objc_autoreleasePoolPop(pool);
}

// A surface is one row of bytes.
static char *new_surface(size_t bytes, ane_surface **surface) {
	enum { KEYS = 6 };
	const int64_t zero = 0, one = 1, size = (int64_t)bytes;
	const void *keys[KEYS] = {kIOSurfaceWidth, kIOSurfaceHeight, kIOSurfaceBytesPerElement,
		kIOSurfaceBytesPerRow, kIOSurfaceAllocSize, kIOSurfacePixelFormat};
	const int64_t numbers[KEYS] = {size, one, one, size, size, zero};
	const void *values[KEYS] = {NULL};
	int made = 0;
	while (made < KEYS && (values[made] = CFNumberCreate(kCFAllocatorDefault, kCFNumberSInt64Type, &numbers[made]))) made++;
	CFDictionaryRef properties = NULL;
	IOSurfaceRef s = NULL;
	if (made == KEYS) {
		properties = CFDictionaryCreate(kCFAllocatorDefault, keys, values, KEYS,
			&kCFTypeDictionaryKeyCallBacks, &kCFTypeDictionaryValueCallBacks);
	}
	if (properties) {
		s = IOSurfaceCreate(properties);
		CFRelease(properties);
	}
	while (made) CFRelease(values[--made]);
	char text[64];
	snprintf(text, sizeof text, "no surface of %zu bytes", bytes);
	if (!s) return failure("IOSurfaceCreate", text);
	uint16_t *memory = IOSurfaceGetAllocSize(s) < bytes ? NULL : ane_surface_lock((ane_surface *)s, 0);
	if (memory) memset(memory, 0, bytes);
	if (!memory || ane_surface_unlock((ane_surface *)s, 0)) {
		CFRelease((CFTypeRef)s);
		return failure("IOSurfaceLock", "the new surface cannot be locked and unlocked, or is too small");
	}
	*surface = (ane_surface *)s;
	return NULL;
}

char *ane_surface_new(size_t bytes, ane_surface **surface) {
	void *pool = objc_autoreleasePoolPush();
	char *why = new_surface(bytes, surface);
	objc_autoreleasePoolPop(pool);
	return why;
}

void ane_surface_free(ane_surface *s) {
	void *pool = objc_autoreleasePoolPush();
	CFRelease((CFTypeRef)s);
	objc_autoreleasePoolPop(pool);
}

uint16_t *ane_surface_lock(ane_surface *surface, int read_only) {
	IOSurfaceRef s = (IOSurfaceRef)surface;
	if (IOSurfaceLock(s, read_only ? kIOSurfaceLockReadOnly : 0, NULL)) return NULL;
	uint16_t *memory = IOSurfaceGetBaseAddress(s);
	if (!memory) ane_surface_unlock(surface, read_only);
	return memory;
}

int ane_surface_unlock(ane_surface *surface, int read_only) {
	return (int)IOSurfaceUnlock((IOSurfaceRef)surface, read_only ? kIOSurfaceLockReadOnly : 0, NULL);
}

struct ane_request {
	id model, object;
};

static CFArrayRef array_of(const void *v) {
	return v ? CFArrayCreate(kCFAllocatorDefault, &v, 1, &kCFTypeArrayCallBacks) : NULL;
}

static void release(CFTypeRef v) {
	if (v) CFRelease(v);
}

char *ane_request_new(ane_model *m, ane_surface *in, ane_surface *out, ane_request **request) {
	void *pool = objc_autoreleasePoolPush();
	const int64_t zero = 0;
	CFNumberRef index = CFNumberCreate(kCFAllocatorDefault, kCFNumberSInt64Type, &zero);
	CFArrayRef indices = array_of(index);
	CFArrayRef ins = array_of(SEND(wrap, classes[SURFACE], (IOSurfaceRef)in));
	CFArrayRef outs = array_of(SEND(wrap, classes[SURFACE], (IOSurfaceRef)out));
	ane_request *r = calloc(1, sizeof *r);
	id object = NULL;
	if (index && indices && ins && outs && r) {
		object = SEND(request, classes[REQUEST], (id)ins, (id)indices, (id)outs, (id)indices, NULL, NULL, (id)index);
	}
	if (object) {
		r->model = (id)CFRetain((CFTypeRef)m->object);
		r->object = (id)CFRetain((CFTypeRef)object);
		*request = r;
	} else {
		free(r);
	}
	release(outs);
	release(ins);
	release(indices);
	release(index);
	objc_autoreleasePoolPop(pool);
	return object ? NULL : failure("request", "the surfaces were refused, or there is no memory");
}

char *ane_request_eval(ane_request *r) {
	void *pool = objc_autoreleasePoolPush();
	id error = NULL;
	char *why = SEND(eval, r->model, QOS, (id)no_options, r->object, &error) ? NULL : described("evaluate", error);
	objc_autoreleasePoolPop(pool);
	return why;
}

void ane_request_free(ane_request *r) {
	void *pool = objc_autoreleasePoolPush();
	CFRelease((CFTypeRef)r->object);
	CFRelease((CFTypeRef)r->model);
	free(r);
	objc_autoreleasePoolPop(pool);
}

// BAND rows and columns of a transposed block at a time stay in the cache.
enum { BAND = 32 };

static ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

void ane_put(uint16_t *h, const float *f, ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t stride, ptrdiff_t offset,
	ptrdiff_t ld, int transposed, const float *row_scale, float scale) {
	_Float16 *to = (_Float16 *)h + offset;
	if (!transposed) {
		for (ptrdiff_t r = 0; r < rows; r++) {
			const float s = row_scale ? scale * row_scale[r] : scale;
			const float *restrict from = f + r * stride;
			_Float16 *restrict row = to + r * ld;
			for (ptrdiff_t c = 0; c < cols; c++) row[c] = (_Float16)(from[c] * s);
		}
		return;
	}
	for (ptrdiff_t r0 = 0; r0 < rows; r0 += BAND) {
		const ptrdiff_t r1 = least(r0 + BAND, rows);
		float scales[BAND];
		for (ptrdiff_t r = r0; r < r1; r++) scales[r - r0] = row_scale ? scale * row_scale[r] : scale;
		for (ptrdiff_t c0 = 0; c0 < cols; c0 += BAND) {
			for (ptrdiff_t c = c0; c < least(c0 + BAND, cols); c++) {
				for (ptrdiff_t r = r0; r < r1; r++) to[c * ld + r] = (_Float16)(f[r * stride + c] * scales[r - r0]);
			}
		}
	}
}

uint16_t ane_get(float *f, const uint16_t *h, ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t stride, ptrdiff_t offset,
	ptrdiff_t ld, int transposed, int add, const float *row_scale, float scale) {
	uint16_t largest = 0;
	const ptrdiff_t column = transposed ? ld : 1, row = transposed ? 1 : ld;
	for (ptrdiff_t r = 0; r < rows; r++) {
		const float s = row_scale ? scale * row_scale[r] : scale;
		const uint16_t *bits = h + offset + r * row;
		const _Float16 *from = (const _Float16 *)bits;
		float *restrict to = f + r * stride;
		if (column == 1) {
			for (ptrdiff_t c = 0; c < cols; c++) {
				const uint16_t abs = bits[c] & 0x7fff;
				largest = abs > largest ? abs : largest;
			}
			if (add) {
				for (ptrdiff_t c = 0; c < cols; c++) to[c] += (float)from[c] * s;
			} else {
				for (ptrdiff_t c = 0; c < cols; c++) to[c] = (float)from[c] * s;
			}
			continue;
		}
		for (ptrdiff_t c = 0; c < cols; c++) {
			const uint16_t abs = bits[c * column] & 0x7fff;
			largest = abs > largest ? abs : largest;
			to[c] = (add ? to[c] : 0) + (float)from[c * column] * s;
		}
	}
	return largest;
}

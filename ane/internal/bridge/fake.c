//go:build cgo && linux && amd64 && anefake

// What bridge.c needs of libobjc, CoreFoundation, IOSurface and the private
// framework, for Linux. Methods are ordinary typed C functions behind an
// objc_msgSend that passes all arguments on, as Apple's does, so a wrong cast
// in the bridge shows. Mistakes of the bridge (a released object, an unlocked
// surface, no autorelease pool) abort; failures are injected by fake_fail.

#include "fake.h"

#include <IOSurface/IOSurface.h>
#include <dlfcn.h>
#include <objc/message.h>
#include <objc/runtime.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Every object is counted; those of a kind are the containers they hold.
enum kind { CLASS = 1, DATA, STRING, NUMBER, DICTIONARY, ARRAY, ERROR, IOSURFACE, DESCRIPTION, MODEL, WRAPPER, REQUEST };

struct objc_object {
	enum kind kind;
	atomic_int references;
	long n;             // of bytes, or elements
	void *bytes;        // of data, strings, surfaces
	int64_t number;     // of numbers; of models, the program
	atomic_int state;   // of models: 1 compiled, 2 loaded; of surfaces: locked
	const void **items; // retained
	const void **keys;  // of dictionaries, retained
};

static atomic_int live, calls, fail_at = -1;
static _Thread_local id pool[64];
static _Thread_local int pooled, pools;

int fake_live(void) { return live; }
int fake_calls(void) { return calls; }
void fake_fail(int call) { calls = 0, fail_at = call; }

// fails reports whether this call is the one to fail.
static int fails(void) { return atomic_fetch_add(&calls, 1) == fail_at; }

static void die(const char *why) {
	fprintf(stderr, "fake Objective-C runtime: %s\n", why);
	abort();
}

static id new(enum kind kind, long n) {
	id o = calloc(1, sizeof *o);
	o->kind = kind, o->references = 1, o->n = n;
	live++;
	return o;
}

static id object(CFTypeRef v, enum kind kind) {
	id o = (id)v;
	if (!o || o->references <= 0) die("an object is nil or gone");
	if (kind && o->kind != kind) die("an object is of the wrong class");
	return o;
}

CFTypeRef CFRetain(CFTypeRef v) {
	object(v, 0)->references++;
	return v;
}

void CFRelease(CFTypeRef v) {
	id o = object(v, 0);
	if (o->kind == CLASS || --o->references) return;
	if (o->kind == MODEL && o->state == 2) die("a model was released without unload");
	if (o->kind == MODEL && o->number >= 0) fakeDrop((int)o->number);
	if (o->kind == IOSURFACE && o->state) die("a surface was released while it is locked");
	for (long i = 0; o->items && i < o->n; i++) {
		CFRelease(o->items[i]);
		if (o->keys) CFRelease(o->keys[i]);
	}
	free(o->items), free(o->keys), free(o->bytes), free(o);
	live--;
}

void *objc_autoreleasePoolPush(void) { return pools++, (void *)(intptr_t)(pooled + 1); }
void objc_autoreleasePoolPop(void *p) {
	for (pools--; pooled > (intptr_t)p - 1;) CFRelease((CFTypeRef)pool[--pooled]);
}
static id autorelease(id o) {
	if (!pools || pooled == 64) die("no autorelease pool, or too much in it");
	return pool[pooled++] = o;
}

// CoreFoundation

const CFAllocatorRef kCFAllocatorDefault = NULL;
const CFDictionaryKeyCallBacks kCFTypeDictionaryKeyCallBacks;
const CFDictionaryValueCallBacks kCFTypeDictionaryValueCallBacks;
const CFArrayCallBacks kCFTypeArrayCallBacks;

static id bytes(enum kind kind, const void *from, long n) {
	id o = new(kind, n);
	o->bytes = calloc(1, (size_t)n + 1);
	memcpy(o->bytes, from, (size_t)n);
	return o;
}
static id string(const char *s) { return bytes(STRING, s, (long)strlen(s)); }

static id container(enum kind kind, const void **keys, const void **values, long n) {
	id o = new(kind, n);
	o->items = calloc((size_t)n + 1, sizeof *o->items);
	if (keys) o->keys = calloc((size_t)n + 1, sizeof *o->keys);
	for (long i = 0; i < n; i++) {
		o->items[i] = CFRetain(values[i]);
		if (keys) o->keys[i] = CFRetain(keys[i]);
	}
	return o;
}

CFDataRef CFDataCreate(CFAllocatorRef a, const uint8_t *b, CFIndex n) { return fails() ? NULL : (CFDataRef)bytes(DATA, b, n); }
CFNumberRef CFNumberCreate(CFAllocatorRef a, CFNumberType type, const void *v) {
	if (type != kCFNumberSInt64Type) die("a number is of another type");
	if (fails()) return NULL;
	id o = new(NUMBER, 0);
	o->number = *(const int64_t *)v;
	return (CFNumberRef)o;
}
CFDictionaryRef CFDictionaryCreate(CFAllocatorRef a, const void **keys, const void **values, CFIndex n,
	const CFDictionaryKeyCallBacks *k, const CFDictionaryValueCallBacks *v) {
	if (k != &kCFTypeDictionaryKeyCallBacks || v != &kCFTypeDictionaryValueCallBacks) die("a dictionary does not retain");
	return fails() ? NULL : (CFDictionaryRef)container(DICTIONARY, n ? keys : NULL, values, n);
}
CFArrayRef CFArrayCreate(CFAllocatorRef a, const void **values, CFIndex n, const CFArrayCallBacks *c) {
	if (c != &kCFTypeArrayCallBacks) die("an array does not retain");
	return fails() ? NULL : (CFArrayRef)container(ARRAY, NULL, values, n);
}
CFStringRef CFCopyDescription(CFTypeRef v) { return fails() ? NULL : (CFStringRef)string(object(v, ERROR)->bytes); }
Boolean CFStringGetCString(CFStringRef v, char *to, CFIndex n, CFStringEncoding e) {
	id s = object(v, STRING);
	if (e != kCFStringEncodingUTF8 || s->n >= n || fails()) return 0;
	memcpy(to, s->bytes, (size_t)s->n + 1);
	return 1;
}

// IOSurface

#define KEY(name) \
	static struct objc_object key_##name = {.kind = STRING, .references = 1 << 30}; \
	const CFStringRef name = (CFStringRef)&key_##name;
KEY(kIOSurfaceWidth)
KEY(kIOSurfaceHeight)
KEY(kIOSurfaceBytesPerElement)
KEY(kIOSurfaceBytesPerRow)
KEY(kIOSurfaceAllocSize)
KEY(kIOSurfacePixelFormat)

static int64_t property(id d, CFStringRef key) {
	for (long i = 0; i < d->n; i++) {
		if (d->keys[i] == (const void *)key) return object(d->items[i], NUMBER)->number;
	}
	die("a surface lacks a property");
	return 0;
}

IOSurfaceRef IOSurfaceCreate(CFDictionaryRef properties) {
	if (!pools) die("a surface is made without an autorelease pool");
	id d = object(properties, DICTIONARY);
	int64_t size = property(d, kIOSurfaceAllocSize);
	if (property(d, kIOSurfaceWidth) != size || property(d, kIOSurfaceBytesPerRow) != size || property(d, kIOSurfaceHeight) != 1 ||
		property(d, kIOSurfaceBytesPerElement) != 1 || property(d, kIOSurfacePixelFormat) != 0) {
		die("a surface is not one row of bytes");
	}
	if (fails()) return NULL;
	id o = new(IOSURFACE, 0);
	o->number = size;
	o->bytes = malloc((size_t)size);
	memset(o->bytes, 0x7f, (size_t)size); // NaN
	return (IOSurfaceRef)o;
}
int IOSurfaceLock(IOSurfaceRef s, uint32_t options, uint32_t *seed) {
	if (fails()) return 0xe00002bd;
	if (atomic_fetch_add(&object((CFTypeRef)s, IOSURFACE)->state, 1)) die("a surface is locked twice");
	return 0;
}
int IOSurfaceUnlock(IOSurfaceRef s, uint32_t options, uint32_t *seed) {
	if (atomic_fetch_add(&object((CFTypeRef)s, IOSURFACE)->state, -1) != 1) die("a surface is not locked");
	return fails() ? 0xe00002bd : 0;
}
void *IOSurfaceGetBaseAddress(IOSurfaceRef s) {
	id o = object((CFTypeRef)s, IOSURFACE);
	if (!o->state) die("a surface is touched unlocked");
	return fails() ? NULL : o->bytes;
}
size_t IOSurfaceGetAllocSize(IOSurfaceRef s) { return fails() ? 0 : (size_t)object((CFTypeRef)s, IOSURFACE)->number; }

// The private framework

static id error(const char *text) { return autorelease(bytes(ERROR, text, (long)strlen(text))); }

// Descriptions of errors are long, with errors in them.
#define INJECTED(e) \
	if (fails()) { \
		char text[5000]; \
		snprintf(text, sizeof text, "%4900s", "injected failure"); \
		return *(e) = error(text), NO; \
	}

static id describe(id class, SEL s, id text, id weights, id options) {
	object(text, DATA), object(weights, DICTIONARY);
	if (options) die("options of a model");
	if (fails()) return NULL;
	const void *held = text;
	return autorelease(container(DESCRIPTION, NULL, &held, 1));
}
static id make(id class, SEL s, id description) {
	object(description, DESCRIPTION);
	if (fails()) return NULL;
	const void *held = description;
	id m = container(MODEL, NULL, &held, 1);
	m->number = -1;
	return autorelease(m);
}
static id text_of(id model) { return (id)((id)object(model, MODEL)->items[0])->items[0]; }
static id name_of(id model) {
	id text = text_of(model);
	uint64_t hash = 14695981039346656037u;
	for (long i = 0; i < text->n; i++) hash = (hash ^ ((uint8_t *)text->bytes)[i]) * 1099511628211u;
	char name[40];
	snprintf(name, sizeof name, "%016lX_FACE", hash);
	return autorelease(string(name));
}
static id hex(id model, SEL s) { return fails() ? NULL : name_of(model); }
static BOOL compile(id model, SEL s, unsigned qos, id options, id *e) {
	id text = text_of(model);
	object(options, DICTIONARY);
	if (qos != 21) die("QoS is not 21");
	INJECTED(e);
	char why[512] = "";
	model->number = fakeCompile(text->bytes, text->n, name_of(model)->bytes, why, sizeof why);
	if (model->number < 0) return *e = error(why), NO;
	model->state = 1;
	return YES;
}
static BOOL load(id model, SEL s, unsigned qos, id options, id *e) {
	object(options, DICTIONARY);
	if (qos != 21 || object(model, MODEL)->state != 1) die("QoS is not 21, or load without compile");
	INJECTED(e);
	char why[512] = "";
	if (fakeLoad((int)model->number, why, sizeof why)) return *e = error(why), NO;
	model->state = 2;
	return YES;
}
static BOOL unload(id model, SEL s, unsigned qos, id *e) {
	if (qos != 21 || object(model, MODEL)->state != 2) die("QoS is not 21, or unload without load");
	model->state = 1;
	fakeUnload((int)model->number);
	INJECTED(e);
	return YES;
}
static id wrap(id class, SEL s, IOSurfaceRef surface) {
	object((CFTypeRef)surface, IOSURFACE);
	if (fails()) return NULL;
	const void *held = surface;
	return autorelease(container(WRAPPER, NULL, &held, 1));
}
static id request(id class, SEL s, id ins, id in_indices, id outs, id out_indices, id weights, id stats, id procedure) {
	id arrays[4] = {ins, in_indices, outs, out_indices};
	for (int i = 0; i < 4; i++) {
		if (object(arrays[i], ARRAY)->n != 1) die("a request of more than one surface");
		object(arrays[i]->items[0], i % 2 ? NUMBER : WRAPPER);
		if (i % 2 && ((id)arrays[i]->items[0])->number != 0) die("an index is not 0");
	}
	if (weights || stats || object(procedure, NUMBER)->number != 0) die("a request with weights, statistics or a procedure");
	if (fails()) return NULL;
	const void *held[2] = {ins, outs};
	return autorelease(container(REQUEST, NULL, held, 2));
}
static id surface_of(id request, int i) { return (id)((id)((id)object(request, REQUEST)->items[i])->items[0])->items[0]; }
static BOOL eval(id model, SEL s, unsigned qos, id options, id r, id *e) {
	object(options, DICTIONARY);
	if (qos != 21 || object(model, MODEL)->state != 2) die("QoS is not 21, or evaluation without load");
	id in = surface_of(r, 0), out = surface_of(r, 1);
	if (in->state || out->state) die("a surface is locked during evaluation");
	INJECTED(e);
	char why[512] = "";
	if (fakeEval((int)model->number, in->bytes, in->number, out->bytes, out->number, why, sizeof why)) return *e = error(why), NO;
	return YES;
}

// libobjc

struct objc_class {
	struct objc_object object;
	const char *name;
};
enum { N_CLASSES = 4, N_METHODS = 9 };
static struct objc_class class_list[N_CLASSES] = {
	{{.kind = CLASS, .references = 1 << 30}, "_ANEInMemoryModelDescriptor"},
	{{.kind = CLASS, .references = 1 << 30}, "_ANEInMemoryModel"},
	{{.kind = CLASS, .references = 1 << 30}, "_ANERequest"},
	{{.kind = CLASS, .references = 1 << 30}, "_ANEIOSurfaceObject"},
};
struct objc_selector {
	const char *name;
};
struct objc_method {
	int class_index, meta;
	struct objc_selector selector;
	const char *type;
	void *function;
};
static struct objc_method method_list[N_METHODS] = {
	{0, 1, {"modelWithMILText:weights:optionsPlist:"}, "@40@0:8@16@24@32", describe},
	{1, 1, {"inMemoryModelWithDescriptor:"}, "@24@0:8@16", make},
	{1, 0, {"hexStringIdentifier"}, "@16@0:8", hex},
	{1, 0, {"compileWithQoS:options:error:"}, "B36@0:8I16@20^@28", compile},
	{1, 0, {"loadWithQoS:options:error:"}, "B36@0:8I16@20^@28", load},
	{1, 0, {"unloadWithQoS:error:"}, "B28@0:8I16^@20", unload},
	{1, 0, {"evaluateWithQoS:options:request:error:"}, "B44@0:8I16@20@28^@36", eval},
	{3, 1, {"objectWithIOSurface:"}, "@24@0:8^{__IOSurface=}16", wrap},
	{2, 1, {"requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:"},
		"@72@0:8@16@24@32@40@48@56@64", request},
};
static int hidden_framework;
static int hidden_class = -1, hidden_method = -1, changed_method = -1;
static const char *changed_type;

void fake_hide(int class_index, int method) { hidden_class = class_index, hidden_method = method; }
void fake_change(int method, const char *type) { changed_method = method, changed_type = type; }

void fake_hide_framework(int hide) { hidden_framework = hide; }
void *fake_dlopen(const char *path, int mode) {
	if (mode != RTLD_NOW || strcmp(path, "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine")) {
		die("another framework is opened");
	}
	return hidden_framework ? NULL : &hidden_framework;
}
char *fake_dlerror(void) { return "no such file"; }

Class objc_getClass(const char *name) {
	for (int i = 0; i < N_CLASSES; i++) {
		if (!strcmp(class_list[i].name, name)) return i == hidden_class ? NULL : &class_list[i];
	}
	return NULL;
}
SEL sel_registerName(const char *name) {
	for (int i = 0; i < N_METHODS; i++) {
		if (!strcmp(method_list[i].selector.name, name)) return &method_list[i].selector;
	}
	return NULL;
}
static Method find(Class c, SEL s, int meta) {
	if (!pools) die("a class is asked without an autorelease pool");
	for (int i = 0; i < N_METHODS; i++) {
		struct objc_method *m = &method_list[i];
		if (&class_list[m->class_index] == c && m->meta == meta && &m->selector == s && i != hidden_method) return m;
	}
	return NULL;
}
Method class_getClassMethod(Class c, SEL s) { return find(c, s, 1); }
Method class_getInstanceMethod(Class c, SEL s) { return find(c, s, 0); }
const char *method_getTypeEncoding(Method m) { return m - method_list == changed_method ? changed_type : m->type; }

static intptr_t nothing(void) { return 0; }

// fake_function is where objc_msgSend goes.
void *fake_function(id receiver, SEL s) {
	if (!receiver) return (void *)nothing;
	static const enum kind kinds[N_CLASSES] = {DESCRIPTION, MODEL, REQUEST, WRAPPER};
	for (int i = 0; i < N_METHODS; i++) {
		struct objc_method *m = &method_list[i];
		if (&m->selector != s) continue;
		if (m->meta ? receiver != (id)&class_list[m->class_index] : receiver->kind != kinds[m->class_index]) die("unrecognised selector");
		return m->function;
	}
	die("unknown selector");
	return NULL;
}

__asm__(
	".globl objc_msgSend\n"
	".type objc_msgSend, @function\n"
	"objc_msgSend:\n"
	"	push %rdi\n	push %rsi\n	push %rdx\n	push %rcx\n	push %r8\n	push %r9\n	sub $8, %rsp\n"
	"	call fake_function\n"
	"	add $8, %rsp\n	pop %r9\n	pop %r8\n	pop %rcx\n	pop %rdx\n	pop %rsi\n	pop %rdi\n"
	"	jmp *%rax\n"
	".size objc_msgSend, .-objc_msgSend\n");

// The declarations of <objc/runtime.h> that bridge.c uses.
#pragma once
#include <stdbool.h>
typedef struct objc_object *id;
typedef struct objc_class *Class;
typedef struct objc_selector *SEL;
typedef struct objc_method *Method;
typedef bool BOOL;
#define YES true
#define NO false
Class objc_getClass(const char *name);
SEL sel_registerName(const char *name);
Method class_getInstanceMethod(Class, SEL);
Method class_getClassMethod(Class, SEL);
const char *method_getTypeEncoding(Method);

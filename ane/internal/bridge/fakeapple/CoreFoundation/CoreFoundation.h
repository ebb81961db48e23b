// The declarations of <CoreFoundation/CoreFoundation.h> that bridge.c uses.
#pragma once
#include <stdint.h>
typedef const void *CFTypeRef;
typedef const struct __CFAllocator *CFAllocatorRef;
typedef const struct __CFData *CFDataRef;
typedef const struct __CFString *CFStringRef;
typedef const struct __CFNumber *CFNumberRef;
typedef const struct __CFDictionary *CFDictionaryRef;
typedef const struct __CFArray *CFArrayRef;
typedef long CFIndex;
typedef long CFNumberType;
typedef uint32_t CFStringEncoding;
typedef unsigned char Boolean;
typedef struct { CFIndex version; } CFDictionaryKeyCallBacks, CFDictionaryValueCallBacks, CFArrayCallBacks;
enum { kCFStringEncodingUTF8 = 0x08000100, kCFNumberSInt64Type = 4 };
extern const CFAllocatorRef kCFAllocatorDefault;
extern const CFDictionaryKeyCallBacks kCFTypeDictionaryKeyCallBacks;
extern const CFDictionaryValueCallBacks kCFTypeDictionaryValueCallBacks;
extern const CFArrayCallBacks kCFTypeArrayCallBacks;
CFTypeRef CFRetain(CFTypeRef);
void CFRelease(CFTypeRef);
CFStringRef CFCopyDescription(CFTypeRef);
CFDataRef CFDataCreate(CFAllocatorRef, const uint8_t *, CFIndex);
Boolean CFStringGetCString(CFStringRef, char *, CFIndex, CFStringEncoding);
CFNumberRef CFNumberCreate(CFAllocatorRef, CFNumberType, const void *);
CFDictionaryRef CFDictionaryCreate(CFAllocatorRef, const void **keys, const void **values, CFIndex,
	const CFDictionaryKeyCallBacks *, const CFDictionaryValueCallBacks *);
CFArrayRef CFArrayCreate(CFAllocatorRef, const void **values, CFIndex, const CFArrayCallBacks *);

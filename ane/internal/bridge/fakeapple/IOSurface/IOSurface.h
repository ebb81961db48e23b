// The declarations of <IOSurface/IOSurface.h> that bridge.c uses.
#pragma once
#include <CoreFoundation/CoreFoundation.h>
#include <stddef.h>
typedef struct __IOSurface *IOSurfaceRef;
enum { kIOSurfaceLockReadOnly = 1 };
extern const CFStringRef kIOSurfaceWidth, kIOSurfaceHeight, kIOSurfaceBytesPerElement, kIOSurfaceBytesPerRow,
	kIOSurfaceAllocSize, kIOSurfacePixelFormat;
IOSurfaceRef IOSurfaceCreate(CFDictionaryRef);
int IOSurfaceLock(IOSurfaceRef, uint32_t options, uint32_t *seed);
int IOSurfaceUnlock(IOSurfaceRef, uint32_t options, uint32_t *seed);
void *IOSurfaceGetBaseAddress(IOSurfaceRef);
size_t IOSurfaceGetAllocSize(IOSurfaceRef);

// The declarations of <objc/message.h> that bridge.c uses.
#pragma once
#include <objc/runtime.h>
void objc_msgSend(void);

// Marks the few symbols that the library shows; everything else is hidden.
#pragma once

#if defined(_WIN32)
#define AXFORM_EXPORT __declspec(dllexport)
#else
#define AXFORM_EXPORT __attribute__((visibility("default")))
#endif

// early_lib.h - what early.cc may ask of the library that lives before and after it.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// Whether the library's constructor has done all its calls.
int early_constructor_succeeded(void);

// Where its destructor, when it has done all its calls, writes one byte. Nowhere at first.
void early_report_to(int fd);

// Wakes the thread that the constructor started and left blocked, and waits for its end.
void early_end_thread(void);

#ifdef __cplusplus
}
#endif

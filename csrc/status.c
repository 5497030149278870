/* Words for failures. A status alone says which kind of mistake it was; the words say which argument. */
#include <stdarg.h>
#include <stdio.h>

#include "runtime.h"

/* One buffer per thread, so that two failing threads never read each other's words. A longer message is cut. */
static _Thread_local char message[256];

const char *cr_status_name(enum cr_status status)
{
    switch (status) {
    case CR_OK:
        return "CR_OK";
    case CR_INVALID_ARGUMENT:
        return "CR_INVALID_ARGUMENT";
    case CR_OVERFLOW:
        return "CR_OVERFLOW";
    case CR_OUT_OF_MEMORY:
        return "CR_OUT_OF_MEMORY";
    }
    return "unknown status"; /* no default above: the compiler names a status that is missing there */
}

const char *cr_error_message(void)
{
    return message;
}

enum cr_status cr_fail(enum cr_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return status;
}

CR_VISIBLE const char *cr_version(void)
{
    return CR_VERSION;
}

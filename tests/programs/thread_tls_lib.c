/* thread_tls_lib.c - a library with thread variables, loaded by thread_tls.cc while it runs.
 * Built twice: INITIAL_EXEC puts them into the static TLS of every thread. */
#ifdef INITIAL_EXEC
#define MODEL __attribute__((tls_model("initial-exec")))
#else
#define MODEL
#endif

static MODEL __thread int initialised = 41;
static MODEL __thread long zero[8];
static MODEL __thread const char* text = "initial";

int next_value(void) { return ++initialised; }
long next_zero(int i) { return ++zero[i]; }
const char* current_text(void) { return text; }
void set_text(const char* to) { text = to; }

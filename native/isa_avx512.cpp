#define OSTINATO_ISA_NS isa_avx512
#define OSTINATO_ISA_NAME "avx512"
#include "isa_table.inc.h"

#define OSTINATO_ISA_NS isa_avx2
#define OSTINATO_ISA_NAME "avx2"
#include "isa_table.inc.h"

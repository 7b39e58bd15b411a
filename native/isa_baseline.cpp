#define OSTINATO_ISA_NS isa_baseline
#define OSTINATO_ISA_NAME "baseline"
#include "isa_table.inc.h"

// A step's plan as the engine runs it: decoded once from the flat list of integers that
// ostinato/engine/lowering.py writes (the two files describe the same format, in the same order).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels.h"
#include "units.h"

namespace ostinato {

enum class Space : int32_t {
  kStream,  // one row for each (step, row): input, output, or kept for the backward step
  kCarryIn,  // carried value as it enters the step
  kCarryOut,  // and as it leaves it
  kStep,  // a buffer of this step's rows
  kChunk,  // a buffer of all rows of the chunk of steps
  kTile,  // a buffer of the rows of one tile, inside a segment
  kVector,  // the same for all rows
  kConst,
  kSum,  // destination of sum_rows
};

struct Operand {
  Space space;
  int32_t id;
  int32_t offset;  // first column
  bool broadcast;  // one column serves all
  int32_t slot = -1;  // derived: where its rows are found (Plan::slots)
  int32_t list = -1;  // derived: of a product, but of streams: pointers to its rows (Plan::lists)
};

// Elements of all values of a segment's tile. From 2,048 to 65,536 an LSTM differs by 3 %; a
// layer-norm LSTM, of more values, takes 2 to 7 % less with 65,536 than with 16,384.
inline constexpr int64_t kTileElements = 65536;

// What operands lie in: all fields of one space and id.
struct Slot {
  Space space;
  int32_t id;
};

// A stream that a segment reads or writes.
struct Opening {
  int32_t stream;
  bool read;
};

// A stream whose rows are about to be read or written: by the loop's next step, by products before the
// next chunk's loop, or by those after this chunk's, whose rows of a step are those of the loop's.
enum class Due { kNextStep, kNextChunk, kAfterLoop };
struct Passing {
  int32_t stream;
  Due due;
  bool only_written;  // nothing reads it, and nothing but copies and products writes it
};

struct Stream {
  int64_t width;
  bool kept;  // internal: rows without gaps, in the order of kept.h
  int32_t previous_of;  // the stream whose previous step this is, or -1
};

struct Map {
  int64_t k, n;  // of one block
  int64_t groups;
  bool in_loop = false;  // derived: of the loop's products
};

// Codes from kGroupCode on are not pointwise.
enum : int32_t {
  kGroupCode = 100,
  kCodeSum = 100,
  kCodeAmax,
  kCodeCumsum,
  kCodeCumsumReverse,
  kCodeExpand,
  kCodeTake,
  kCodePut,
  kCodeMoments,
  kCodeNormalise,
  kCodeNormaliseGrad,
  kCodeSumRows,
  kCodeSumRowsMul,
  kCodeNormaliseMulAdd,
  kCodeNormaliseGradRaw,
  kCodeSumRowsMulNormalise,
};

inline constexpr int kMaxSources = 4;

struct SegmentOp {
  int32_t code;  // an Op, or one of the codes above
  int64_t cols;  // of the destination
  int64_t extra;  // groups of a group function, index table of a move
  Operand dst;
  int32_t n_src;
  Operand src[kMaxSources];
  bool copies_result = false;  // derived: to a stream of the caller's
};

enum class InstrKind : int32_t { kGemm, kSegment, kOuter };

struct Instr {
  InstrKind kind;
  // gemm: out = a * map (+ bias) (+ out); outer: weight gradient `id` from a and out (= dz)
  int32_t id = -1;
  Operand a{}, out{};
  int32_t bias = -1;
  bool accumulate = false;
  std::vector<SegmentOp> ops;
  int64_t touched = 1;  // derived: elements of a row that the segment's operations write
  int64_t tile_rows = 1;  // derived: of a segment's tile, at most
};

enum : int { kPre = 0, kLoop = 1, kPost = 2 };

struct Plan {
  bool backward = false;
  bool keeps = false;  // derived: whether there are kept streams
  std::vector<Stream> streams;
  std::vector<int64_t> carry, step, chunk, tile;  // widths
  std::vector<double> consts;
  std::vector<Map> maps;
  std::vector<int64_t> sums;  // widths
  std::vector<Map> outers;
  std::vector<std::vector<int64_t>> tables;
  std::vector<Instr> phases[3];
  // Derived: what one row of one step takes in each phase, in multiply-adds.
  int64_t work[3] = {};
  // Derived: the elements of a row that products beside the loop take from it, or hand to it.
  int64_t crossing = 0;
  // Derived: first column of each tile buffer when they lie side by side, and their total width.
  std::vector<int64_t> tile_begin;
  int64_t tile_width = 1;
  // Derived: what operands lie in; by kind: tile buffers, what moves with the step besides streams,
  // and by stream its slot or -1.
  std::vector<Slot> slots;
  std::vector<int32_t> tile_slots, moving_slots, stream_slots;
  // Derived: products' operands whose rows lie where they are for the whole call.
  std::vector<Operand> lists;
  // Derived: streams that the segments of a phase open (they gather those that they read), and those
  // that they write (scatter), where their rows are not evenly spaced in memory.
  std::vector<Opening> segment_opens[3];
  std::vector<int32_t> opened;  // in any phase
  std::vector<int32_t> segment_writes[3];
  // Derived: what the loop's products ask memory for; a stream that is read one step back, as that.
  std::vector<Passing> passing;
  // Derived: streams of the caller's that are written.
  std::vector<int32_t> results;
  // Derived: all values are runs of so many columns (an LSTM's gates, its state), and, but for products,
  // a column of one comes of the same column of others' runs; 0: they aren't.
  int64_t units = 0;
  // As many threads can divide them: each must have a column of every product, or it would wait for
  // nothing, and no longer know what others have received.
  int64_t most_unit_threads = 0;
  std::shared_ptr<UnitPlans> unit_plans;
  // Of a plan for one of the threads that divide units: which it has, and its products' maps.
  Units own;
  std::vector<Units> shares;  // by thread
  std::vector<SharedMap> shared_maps;
  std::vector<Staged> staged;
};

// Derives what follows from where operands are and how wide: what a segment's memory takes, lists of
// rows, streams that are opened.
void survey_operands(Plan& plan);

Plan decode_plan(const std::vector<int64_t>& code, const std::vector<double>& consts);

// What threads divide: rows; columns of each product; units (Plan::units; columns, where there are
// none); or one runs the loop, the others what is hoisted and deferred. kAuto: by the call's size.
enum class Division { kAuto, kRows, kColumns, kUnits, kRelay };

// What changes from call to call. Sizes and strides are in elements, pointers to elements of the
// plan's type.
struct StreamArg {
  void* base;
  int64_t time_stride;
  int64_t row_stride;
  const void* initial;  // streams that are another's previous step: rows before the first
};

struct MatrixArg {
  const void* base;
  int64_t group_stride, k_stride, n_stride;
};

struct OuterArg {
  void* base;
  int64_t group_stride, k_stride, n_stride;
};

struct Call {
  int64_t steps = 0;  // T
  int64_t rows = 0;  // B
  int64_t threads = 1;
  int64_t row_steps = 0;  // rows of all steps
  // Rows are in order of falling length. active[u]: rows that have a step u, if not all have;
  // offset[u]: of packed streams, rows of all steps before u.
  std::vector<int64_t> active, offset;
  std::vector<int64_t> length;  // by row
  std::vector<int64_t> order;  // row -> position in the caller's batch; empty: the same
  bool uniform = true;  // all rows have T steps
  bool reverse = false;  // step u of a row is the caller's time length - 1 - u
  bool packed = false;  // external streams are packed (rows of a time step adjacent)
  const uint8_t* reset = nullptr;  // (time, batch)
  int64_t reset_time_stride = 0, reset_row_stride = 0;
  int64_t kept_blocks = 1;  // backward: of rows, in what forward has kept (kept.h)
  int64_t truncate = 0;  // backward: cut every so many steps, counted from a row's last; 0: never
  std::vector<StreamArg> streams;
  std::vector<const void*> carry_init;
  std::vector<void*> carry_final;
  std::vector<const void*> vectors;
  std::vector<MatrixArg> maps;
  std::vector<void*> sums;
  std::vector<OuterArg> outers;
  bool read_again = false;  // a backward call will read what this one writes
  // For tests: fill scratch memory with NaN first, and ask memory for what comes however little it is;
  // divide the work like this however small it is.
  bool poison = false;
  Division division = Division::kAuto;

  // As new, but for the memory of the vectors.
  void clear() {
    Call blank;
    const auto keep = [](auto& mine, auto& other) {
      mine.clear();
      mine.swap(other);
    };
    keep(active, blank.active);
    keep(offset, blank.offset);
    keep(length, blank.length);
    keep(order, blank.order);
    keep(streams, blank.streams);
    keep(carry_init, blank.carry_init);
    keep(carry_final, blank.carry_final);
    keep(vectors, blank.vectors);
    keep(maps, blank.maps);
    keep(sums, blank.sums);
    keep(outers, blank.outers);
    *this = std::move(blank);
  }
};

}  // namespace ostinato

// Where rows lie in memory: of streams, of the chunk's and the step's buffers, of tiles; step by step
// and row by row, whatever the order, direction and lengths of the batch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels.h"
#include "plan.h"
#include "teams.h"

namespace ostinato {

template <class T>
struct Rows {  // a matrix in memory, as seen by a segment: row `first` lies at base
  T* base;
  int64_t first;
  int64_t stride;
};

// As one thread sees a team's rows.
template <class T>
class Places {
 public:
  Places(const Shared<T>& shared, const Worker<T>& worker)
      : plan_(*worker.team->plan), call_(shared.call), shared_(shared), worker_(worker),
        team_(*worker.team), home_(shared.kept.block(worker.team->begin)) {
    place_fixed();
    fill_lists();
    find_straight();
    find_moves();
  }

  // ---- geometry: steps u as the forward loop counts them, rows of the call

  int64_t active(int64_t u) const {
    if (call_.uniform) return team_.rows;
    return std::clamp<int64_t>(call_.active[u] - team_.begin, 0, team_.rows);
  }

  int64_t batch(int64_t row) const { return call_.order.empty() ? row : call_.order[row]; }

  int64_t chunk_row(int64_t u) const { return local_[u - first_]; }

  bool is_reset(int64_t u, int64_t row) const {
    return call_.reset != nullptr &&
           call_.reset[time(u, row) * call_.reset_time_stride +
                       batch(row) * call_.reset_row_stride] != 0;
  }

  // Turns to the chunk of steps [first, last), whose rows begin at `begin` in the chunk's buffers.
  void enter(int64_t first, int64_t last, int64_t begin) {
    first_ = first;
    local_.assign(static_cast<size_t>(last - first) + 1, begin);
    for (int64_t u = first; u < last; ++u) local_[u - first + 1] = local_[u - first] + active(u);
  }

  // ---- operands of segments

  // Turns to step u, of whose rows [lo, hi) are this thread's; the carried values enter in buffer
  // `parity_in`.
  void enter_step(int phase, int64_t u, int64_t lo, int64_t hi, int parity_in) {
    parity_in_ = parity_in;
    const int64_t clock[] = {u, local_[u - first_]};
    for (const Move& m : moves_) {
      *m.rows = {m.origin[parity_in] + clock[m.by_row] * m.step, 0, m.stride};
    }
    if (lo == hi || u >= straight_from_) return;
    for (const Opening& o : plan_.segment_opens[phase]) open_stream(phase, o.stream, u, lo, hi, o.read);
  }

  // Writes what lies in scratch memory to where it belongs.
  void leave_step(int phase, int64_t u, int64_t lo, int64_t hi) {
    if (lo == hi || u >= straight_from_) return;
    for (int32_t id : plan_.segment_writes[phase]) {
      T* scratch = worker_.stream_scratch[id];
      if (slots_[plan_.stream_slots[id]].base != scratch) continue;
      const int64_t width = plan_.streams[id].width;
      for (int64_t i = lo; i < hi; ++i) {
        copy_row(scratch + i * width, width, seen_row(id, u, team_.begin + i), true);
      }
    }
  }

  // What a step will read or write that the loop's products may ask memory for while they compute
  // step u: of rows [lo, hi), as it is due; not what is written past the cache.
  void find_ahead(int64_t u, int64_t lo, int64_t hi, bool past_cache, Ahead& ahead) const {
    for (const Passing& p : plan_.passing) {
      if (past_cache && p.only_written && in_whole_lines(p.stream)) continue;
      const int64_t distance = p.due == Due::kNextChunk ? team_.chunk_steps : p.due == Due::kNextStep;
      const int64_t next = plan_.backward ? u - distance : u + distance;
      if (next < 0 || next >= call_.steps) continue;
      const int64_t end = std::min(hi, active(next)), width = plan_.streams[p.stream].width;
      Rows<T> rows;
      if (lo >= end || !find(p.stream, next, lo, end, rows) || rows.stride != width) continue;
      ahead.add(rows.base, (end - lo) * width * static_cast<int64_t>(sizeof(T)));
    }
  }

  // Whether a stream's rows are whole lines of memory.
  bool in_whole_lines(int32_t id) const {
    constexpr int64_t line = kLine / static_cast<int64_t>(sizeof(T));
    const StreamArg& arg = call_.streams[id];
    return reinterpret_cast<uintptr_t>(arg.base) % kLine == 0 && arg.time_stride % line == 0 &&
           arg.row_stride % line == 0;
  }

  // Buffers of a tile of so many rows that begins at `row`.
  void place_tile(int64_t row, int64_t rows) {
    if (row == tile_row_ && rows == tile_rows_) return;
    tile_row_ = row;
    tile_rows_ = rows;
    for (int32_t slot : plan_.tile_slots) {
      slots_[slot].base = worker_.tile + plan_.tile_begin[plan_.slots[slot].id] * rows;
      slots_[slot].first = row;
    }
  }

  // Written field by field, as kernels read it: a copy of the whole would wait for these stores.
  void point_at(const Operand& o, int64_t row, In<T>& in) const {
    const Rows<T>& rows = slots_[o.slot];
    in.p = rows.base + (row - rows.first) * rows.stride + o.offset;
    in.row_stride = rows.stride;
    in.col_stride = o.broadcast ? 0 : 1;
  }

  // The row as the step sees it: of the previous step, where the stream stands for that.
  T* seen_row(int32_t id, int64_t u, int64_t row) const {
    const Stream& s = plan_.streams[id];
    if (s.previous_of < 0) return stream_row(s, call_.streams[id], u, row);
    if (is_reset(u, row)) return shared_.zeros;
    if (u == 0) {
      return const_cast<T*>(static_cast<const T*>(call_.streams[id].initial)) +
             batch(row) * s.width;
    }
    return stream_row(plan_.streams[s.previous_of], call_.streams[s.previous_of], u - 1, row);
  }

  // Rows of a stream at steps [from, to), in the order of the chunk's buffers: f(first one, distance, how
  // many) for each number of them that are evenly spaced.
  template <class F>
  void each_block(int32_t id, int64_t from, int64_t to, const F& f) const {
    const Straight& s = straight_[id];
    if (team_.rows == 1 && from >= s.from) return f(s.origin + from * s.step, s.step, to - from);
    for (int64_t u = from; u < to; ++u) {
      const int64_t n = active(u);
      Rows<T> rows;
      if (n > 0 && find(id, u, 0, n, rows)) {
        f(rows.base, rows.stride, n);
      } else {
        for (int64_t i = 0; i < n; ++i) f(seen_row(id, u, team_.begin + i), 0, 1);
      }
    }
  }

  // ---- operands of products

  // How many rows steps [from, to) have.
  int64_t count(int64_t from, int64_t to) const { return local_[to - first_] - local_[from - first_]; }

  // Pointers to an operand's rows at steps [from, to): `room` is for them, if they must be written.
  T* const* point(const Operand& o, int64_t from, int64_t to, T** room) const {
    if (o.space == Space::kStream) {
      T** out = room;
      for (int64_t u = from; u < to; ++u) out = point_at_stream(o, u, out);
      return room;
    }
    T* const* const list = worker_.lists[o.list];
    switch (o.space) {
      case Space::kChunk:
        return list + local_[from - first_];
      case Space::kCarryIn:
        return list + parity_in_ * team_.rows;
      case Space::kCarryOut:
        return list + (parity_in_ ^ 1) * team_.rows;
      default:
        return list;
    }
  }

  // Pointers to a stream's rows, or to those that go with them, in the order in which they are best
  // written beside other teams' rows (first_lines()).
  T* const* in_writing_order(T* const* rows, int32_t stream, int64_t from, int64_t to, T** room) const {
    const int64_t bytes = plan_.streams[stream].width * static_cast<int64_t>(sizeof(T));
    T** out = room;
    for (int64_t u = from; u < to; ++u) {
      const int64_t n = active(u), lines = first_lines(n * bytes / kLine);
      const int64_t first = std::min(n, (lines * kLine + bytes - 1) / bytes);
      for (int64_t i = 1; i <= first; ++i) *out++ = rows[n - i];
      out = std::copy(rows, rows + n - first, out);
      rows += n;
    }
    return room;
  }

  // Four at a time, so that an addition needn't wait for the last: with few units it shows.
  static void spread(T* row, int64_t stride, int64_t count, T** out) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4, row += 4 * stride) {
      out[i] = row;
      out[i + 1] = row + stride;
      out[i + 2] = row + 2 * stride;
      out[i + 3] = row + 3 * stride;
    }
    for (; i < count; ++i, row += stride) out[i] = row;
  }

  const T* vector(int32_t id) const { return static_cast<const T*>(call_.vectors[id]); }

 private:
  int64_t time(int64_t u, int64_t row) const {
    return call_.reverse ? call_.length[row] - 1 - u : u;
  }

  bool any_reset(int64_t u, int64_t lo, int64_t hi) const {
    if (call_.reset == nullptr) return false;
    for (int64_t i = lo; i < hi; ++i) {
      if (is_reset(u, team_.begin + i)) return true;
    }
    return false;
  }

  const KeptRows::Block& kept_block(int64_t row) const {
    return row >= home_.begin && row < home_.end ? home_ : shared_.kept.block(row);
  }

  T* stream_row(const Stream& s, const StreamArg& arg, int64_t u, int64_t row) const {
    T* base = static_cast<T*>(arg.base);
    if (s.kept) return base + kept_block(row).at(u, row) * arg.row_stride;
    const int64_t t = time(u, row);
    if (call_.packed) return base + (call_.offset[t] + row) * arg.row_stride;
    return base + t * arg.time_stride + batch(row) * arg.row_stride;
  }

  bool evenly_spaced(int32_t id, int64_t u, int64_t lo, int64_t hi) const {
    const Stream& s = plan_.streams[id];
    if (s.previous_of >= 0) {
      if (any_reset(u, lo, hi)) return false;
      if (u == 0) return call_.order.empty();
    }
    if (plan_.streams[s.previous_of >= 0 ? s.previous_of : id].kept) {
      return team_.begin + hi <= kept_block(team_.begin + lo).end;
    }
    return call_.order.empty() && (!call_.reverse || call_.uniform);
  }

  int64_t row_distance(int32_t id, int64_t u) const {
    const Stream& s = plan_.streams[id];
    if (s.previous_of < 0) return call_.streams[id].row_stride;
    return u == 0 ? s.width : call_.streams[s.previous_of].row_stride;
  }

  // Rows [lo, hi) of a stream at step u, if they are evenly spaced.
  bool find(int32_t id, int64_t u, int64_t lo, int64_t hi, Rows<T>& rows) const {
    const Straight& s = straight_[id];
    if (u >= s.from) {
      rows = {s.origin + u * s.step + lo * s.stride, lo, s.stride};
      return true;
    }
    if (!evenly_spaced(id, u, lo, hi)) return false;
    rows = {seen_row(id, u, team_.begin + lo), lo, row_distance(id, u)};
    return true;
  }

  // Looks once for the call at how streams lie, which at each step would show in small calls.
  void find_straight() {
    straight_.assign(plan_.streams.size(), Straight{});
    const bool alike = call_.uniform && call_.order.empty() && call_.reset == nullptr;
    if (!alike || team_.rows == 0) return;
    for (size_t id = 0; id < straight_.size(); ++id) {
      const int32_t previous_of = plan_.streams[id].previous_of;
      const int64_t from = previous_of < 0 ? 0 : 1;
      const int32_t source = from == 0 ? static_cast<int32_t>(id) : previous_of;
      if (call_.steps < from + 2 || !evenly_spaced(source, 0, 0, team_.rows)) continue;
      T* const first = seen_row(source, 0, team_.begin);
      const int64_t step = seen_row(source, 1, team_.begin) - first;
      straight_[id] = {first - from * step, step, row_distance(source, 0), from};
    }
  }

  // Of a stream that is written, where threads divide units only the own ones: others write theirs.
  void copy_row(const T* from, int64_t width, T* to, bool written) const {
    if (written && plan_.own.run > 0) {
      plan_.own.each_run(width, [&](int64_t first, int64_t, int64_t n) {
        std::copy(from + first, from + first + n, to + first);
      });
    } else {
      std::copy(from, from + width, to);
    }
  }

  void open_stream(int phase, int32_t id, int64_t u, int64_t lo, int64_t hi, bool read) {
    Rows<T>& rows = slots_[plan_.stream_slots[id]];
    if (find(id, u, lo, hi, rows)) return;
    const int64_t width = plan_.streams[id].width;
    T* scratch = worker_.stream_scratch[id];
    rows = {scratch, 0, width};
    if (!read) return;
    const auto& writes = plan_.segment_writes[phase];
    const bool written = std::find(writes.begin(), writes.end(), id) != writes.end();
    for (int64_t i = lo; i < hi; ++i) {
      copy_row(seen_row(id, u, team_.begin + i), width, scratch + i * width, written);
    }
  }

  // Slots that move with the step; of streams only if all are straight: others are looked for at each
  // step.
  void find_moves() {
    moves_.reserve(plan_.moving_slots.size() + plan_.opened.size());
    for (int32_t slot : plan_.moving_slots) {
      const auto [space, id] = plan_.slots[slot];
      if (space == Space::kChunk) {
        T* const base = team_.chunk[id];
        const int64_t width = plan_.chunk[id];
        moves_.push_back({&slots_[slot], {base, base}, width, width, true});
      } else {
        const int odd = space == Space::kCarryIn ? 1 : 0;
        T* const even = team_.carry[odd ^ 1][id];
        moves_.push_back({&slots_[slot], {even, team_.carry[odd][id]}, 0, plan_.carry[id], false});
      }
    }
    for (int32_t id : plan_.opened) straight_from_ = std::max(straight_from_, straight_[id].from);
    if (straight_from_ >= call_.steps) return;
    for (int32_t id : plan_.opened) {
      const Straight& s = straight_[id];
      moves_.push_back({&slots_[plan_.stream_slots[id]], {s.origin, s.origin}, s.step, s.stride, false});
    }
  }

  // In a chunk's buffer the rows of its steps lie one after another.
  void fill_lists() {
    for (size_t i = 0; i < plan_.lists.size(); ++i) {
      const Operand& o = plan_.lists[i];
      const int64_t rows = team_.rows;
      T** const list = worker_.lists[i];
      if (o.space == Space::kChunk) {
        spread(team_.chunk[o.id] + o.offset, plan_.chunk[o.id], team_.list_rows(o.space), list);
      } else if (o.space == Space::kStep) {
        spread(team_.step[o.id] + o.offset, plan_.step[o.id], rows, list);
      } else {
        for (int b : {0, 1}) {
          spread(team_.carry[b][o.id] + o.offset, plan_.carry[o.id], rows, list + b * rows);
        }
      }
    }
  }

  // Slots that are where they are for the whole call.
  void place_fixed() {
    slots_.assign(plan_.slots.size(), Rows<T>{nullptr, 0, 0});
    for (size_t i = 0; i < slots_.size(); ++i) {
      const auto [space, id] = plan_.slots[i];
      Rows<T>& rows = slots_[i];
      // What is the same for all rows is read only.
      if (space == Space::kConst) rows.base = const_cast<T*>(&shared_.consts[id]);
      if (space == Space::kVector) rows.base = const_cast<T*>(vector(id));
      if (space == Space::kStep) rows = {team_.step[id], 0, plan_.step[id]};
      if (space == Space::kTile) rows.stride = plan_.tile[id];
    }
  }

  T** point_at_stream(const Operand& o, int64_t u, T** out) const {
    const int64_t n = active(u);
    Rows<T> rows;
    if (n > 0 && find(o.id, u, 0, n, rows)) {
      spread(rows.base + o.offset, rows.stride, n, out);
    } else {
      for (int64_t i = 0; i < n; ++i) out[i] = seen_row(o.id, u, team_.begin + i) + o.offset;
    }
    return out + n;
  }

  // A stream of which row i of the team lies at origin + u * step + i * stride, at steps u >= from.
  struct Straight {
    T* origin = nullptr;
    int64_t step = 0, stride = 0, from = std::numeric_limits<int64_t>::max();
  };

  // Rows that lie at origin[parity_in] + step * u or, by_row, step times the step's row of the chunk.
  struct Move {
    Rows<T>* rows;
    T* origin[2];
    int64_t step, stride;
    bool by_row;
  };

  const Plan& plan_;
  const Call& call_;
  const Shared<T>& shared_;
  const Worker<T>& worker_;
  const Team<T>& team_;
  const KeptRows::Block home_;  // of the team's first row
  int64_t first_ = 0;  // the chunk's first step
  std::vector<Straight> straight_;  // by stream
  std::vector<int64_t> local_;  // by step of the chunk: its first row in the chunk's buffers
  int64_t tile_row_ = -1, tile_rows_ = 0;  // the tile that was placed last
  std::vector<Rows<T>> slots_;  // where the operands of segments are now
  int parity_in_ = 0;  // of what is carried, the buffer in which it enters the step
  std::vector<Move> moves_;
  int64_t straight_from_ = 0;  // the first step at which all streams that are opened are straight
};

}  // namespace ostinato

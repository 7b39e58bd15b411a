// The time loop. Rows are divided among teams of threads; a team runs its rows through all steps
// without waiting for another team. A team of several threads (few rows, or maps too large for one
// core's cache) divides the columns of each product and the rows of each segment, and meets at a
// barrier after each; or, where a step has too little work for that, it runs a relay (run_relay()).
//
// Or it's units that are divided (units.h): each team is one thread that has all rows, but only some
// units of them. Its plan is narrower, all that it computes in is its own, and for products with state
// teams hand over to one another (handover.inc.h) what the others need.
//
// Time goes in chunks of steps: hoisted instructions run on all rows of the chunk, then the loop
// step by step, then the deferred instructions on all rows of the chunk. So what they hand to one
// another stays in cache, and no buffer grows with T.
#include "loop.h"

#include <algorithm>
#include <memory>

#include "cache.h"
#include "denormals.h"
#include "division.h"
#include "padding.h"
#include "places.h"
#include "pool.h"
#include "scratch.h"
#include "teams.h"
#include "unit_products.h"

namespace ostinato {
namespace {

template <class T>
class Body {
 public:
  Body(const Shared<T>& shared, const Worker<T>& worker)
      : plan_(*worker.team->plan), call_(shared.call), k_(shared.kernels), shared_(shared),
        worker_(worker), team_(*worker.team),
        places_(shared, worker), unit_products_(shared, worker, places_),
        everybody_(team_.rows, worker.member, team_.members, team_.barrier.get()),
        crew_(everybody_),
        beside_others_(shared.teams.size() > 1 && plan_.own.run == 0),
        past_cache_(result_bytes() > level2_bytes() || (beside_others_ && is_read_by_none())),
        asks_(call_.poison || passing_bytes() > level2_bytes()) {}

  void run() {
    clear_gradients();
    const int64_t chunks = (call_.steps + team_.chunk_steps - 1) / team_.chunk_steps;
    if (team_.relay) return run_relay(chunks);
    start_carry();
    for (int64_t c = 0; c < chunks; ++c) {
      enter(c);
      run_deferred(kPre);
      run_loop();
      publish();
      run_deferred(kPost);
    }
    finish_carry();
  }

  // Chunk c's loop is member 0's, while the others do what is deferred of chunk c - 1 and then, in
  // the same buffers, what is hoisted of chunk c + 1. What nothing can run beside is divided among
  // all.
  void run_relay(int64_t chunks) {
    const bool runs_loop = worker_.member == 0;
    const Crew own = runs_loop ? Crew(team_.rows, 0, 1, nullptr)
                               : Crew(team_.rows, worker_.member - 1, team_.members - 1,
                                      team_.helpers.get());
    if (chunks > 0) {
      enter(0);
      run_deferred(kPre);
    }
    crew_ = own;
    if (runs_loop) start_carry();
    team_.barrier->wait();
    for (int64_t c = 0; c < chunks; ++c) {
      if (runs_loop) {
        enter(c);
        run_loop();
      } else {
        if (c > 0) {
          enter(c - 1);
          run_deferred(kPost);
        }
        if (c + 1 < chunks) {
          enter(c + 1);
          run_deferred(kPre);
        }
      }
      team_.barrier->wait();
    }
    if (runs_loop) finish_carry();
    crew_ = everybody_;
    if (chunks > 0) {
      enter(chunks - 1);
      run_deferred(kPost);
    }
  }

 private:
  // ---- the crew ----

  // Who shares the work at hand.
  struct Crew {
    int index, count;
    Barrier* barrier;
    int64_t begin, end;  // of the team's rows

    Crew(int64_t rows, int i, int n, Barrier* b)
        : index(i), count(n), barrier(b), begin(rows * i / n), end(rows * (i + 1) / n) {}
  };

  // This member's rows [lo, hi) of the n that are running. A row has one member for all its steps,
  // so that what a step leaves in a row's buffers needs no barrier.
  std::pair<int64_t, int64_t> share(int64_t n) const {
    return {std::min(n, crew_.begin), std::min(n, crew_.end)};
  }

  void meet() const {
    if (crew_.count > 1) crew_.barrier->wait();
  }

  // What this team has of a row of so many columns: f(first, where it lies in the team's row, how many).
  template <class F>
  void each_run(int64_t columns, const F& f) const {
    if (plan_.own.run == 0) return f(0, 0, columns);
    plan_.own.each_run(columns, f);
  }

  // ---- carried values ----

  void start_carry() {
    const auto [lo, hi] = share(team_.rows);
    for (size_t slot = 0; slot < plan_.carry.size(); ++slot) {
      const int64_t width = plan_.carry[slot], whole = shared_.plan.carry[slot];
      const T* init = static_cast<const T*>(call_.carry_init[slot]);
      // Backward, a row joins at its own last step, whichever buffer is then read.
      for (int b = 0; b < (plan_.backward ? 2 : 1); ++b) {
        for (int64_t i = lo; i < hi; ++i) {
          const T* from = init + places_.batch(team_.begin + i) * whole;
          T* to = team_.carry[b][slot] + i * width;
          each_run(whole, [&](int64_t first, int64_t at, int64_t n) {
            std::copy(from + first, from + first + n, to + at);
          });
        }
      }
    }
    meet();
  }

  void finish_carry() {
    const auto [lo, hi] = share(team_.rows);
    for (size_t slot = 0; slot < plan_.carry.size(); ++slot) {
      const int64_t width = plan_.carry[slot], whole = shared_.plan.carry[slot];
      T* out = static_cast<T*>(call_.carry_final[slot]);
      for (int64_t i = lo; i < hi; ++i) {
        const int64_t made = plan_.backward ? call_.steps : call_.length[team_.begin + i];
        const T* from = team_.carry[made & 1][slot] + i * width;
        T* to = out + places_.batch(team_.begin + i) * whole;
        each_run(whole, [&](int64_t first, int64_t at, int64_t n) {
          std::copy(from + at, from + at + n, to + first);
        });
      }
    }
  }

  void clear_carry_rows(int parity, int64_t u, int64_t n) {
    const bool cut = plan_.backward && call_.truncate > 0 && u > 0;
    if (call_.reset == nullptr && !cut) return;
    const auto [lo, hi] = share(n);
    for (int64_t i = lo; i < hi; ++i) {
      const int64_t row = team_.begin + i;
      const bool ends = cut && (call_.length[row] - u) % call_.truncate == 0;
      if (!ends && !places_.is_reset(u, row)) continue;
      for (size_t slot = 0; slot < plan_.carry.size(); ++slot) {
        T* p = team_.carry[parity][slot] + i * plan_.carry[slot];
        std::fill(p, p + plan_.carry[slot], T(0));
      }
    }
    meet();
  }

  // ---- running ----

  // Turns to chunk c, in the order of running.
  void enter(int64_t c) {
    done_ = c * team_.chunk_steps;
    const int64_t count = std::min(team_.chunk_steps, call_.steps - done_);
    first_ = plan_.backward ? call_.steps - done_ - count : done_;
    last_ = first_ + count;
    odd_chunk_ = c % 2 != 0;
    places_.enter(first_, last_, c % team_.chunks() * team_.chunk_rows);
  }

  void run_loop() {
    for (int64_t j = 0; j < last_ - first_; ++j) {
      const int64_t u = plan_.backward ? last_ - 1 - j : first_ + j;
      const int64_t n = places_.active(u);
      parity_ = static_cast<int>((done_ + j) & 1);
      if (n == 0) continue;
      if (!plan_.backward) clear_carry_rows(parity_, u, n);
      const auto [lo, hi] = share(n);
      places_.enter_step(kLoop, u, lo, hi, parity_);
      Ahead ahead;
      if (asks_) places_.find_ahead(u, lo, hi, past_cache_, ahead);
      for (const Instr& instr : plan_.phases[kLoop]) {
        if (instr.kind == InstrKind::kSegment) {
          segment(instr, lo, hi);
        } else {
          descending_ = parity_ != 0;
          product(instr, u, u + 1, &ahead);
        }
        meet();
      }
      places_.leave_step(kLoop, u, lo, hi);
      if (plan_.backward) clear_carry_rows(parity_ ^ 1, u, n);
    }
  }

  // Where teams divide units: each writes its columns of the chunk's rows.
  void publish() {
    for (const Staged& s : plan_.staged) {
      const int64_t width = plan_.chunk[s.chunk];
      const T* from = team_.chunk[s.chunk] + places_.chunk_row(first_) * width;
      places_.each_block(s.stream, first_, last_, [&](T* to, int64_t stride, int64_t rows) {
        plan_.own.each_run(plan_.streams[s.stream].width, [&](int64_t first, int64_t at, int64_t n) {
          const In<T> in{from + at, width, 1};
          k_.pointwise[static_cast<int>(Op::kCopy)](to + first, stride, &in, rows, n);
        });
        from += rows * width;
      });
    }
  }

  void run_deferred(int phase) {
    for (const Instr& instr : plan_.phases[phase]) {
      if (instr.kind == InstrKind::kSegment) {
        for (int64_t u = first_; u < last_; ++u) {
          const auto [lo, hi] = share(places_.active(u));
          places_.enter_step(phase, u, lo, hi, parity_);
          segment(instr, lo, hi);
          places_.leave_step(phase, u, lo, hi);
        }
      } else {
        descending_ = odd_chunk_;
        product(instr, first_, last_);
      }
      meet();
    }
  }

  void product(const Instr& instr, int64_t from, int64_t to, Ahead* ahead = nullptr) {
    const bool of_units = plan_.own.run > 0;
    if (of_units && instr.kind == InstrKind::kGemm) {
      return unit_products_.run(instr, from, to, descending_, ahead);
    }
    const int64_t rows = places_.count(from, to);
    if (rows == 0) return;
    T* const* a = places_.point(instr.a, from, to, worker_.a_rows);
    T* const* out = places_.point(instr.out, from, to, worker_.out_rows);
    if (beside_others_ && instr.kind == InstrKind::kGemm && instr.out.space == Space::kStream &&
        instr.a.space != Space::kStream) {
      a = places_.in_writing_order(a, instr.out.id, from, to, worker_.a_rows);
      out = places_.in_writing_order(out, instr.out.id, from, to, worker_.part_rows);
    }
    const Map& map = instr.kind == InstrKind::kGemm ? plan_.maps[instr.id] : plan_.outers[instr.id];
    int64_t begin = 0, end = map.n;
    if (crew_.count > 1) {
      const int64_t panels = (map.n + k_.panel - 1) / k_.panel;
      begin = std::min(map.n, panels * crew_.index / crew_.count * k_.panel);
      end = std::min(map.n, panels * (crew_.index + 1) / crew_.count * k_.panel);
    }
    const T* packed = instr.kind == InstrKind::kGemm ? team_.packed[instr.id] : nullptr;
    for (int64_t g = 0; g < map.groups; ++g) {
      if (g > 0) {
        if (packed) packed += packed_size(k_.panel, map.k, map.n);
        a = shifted(a, rows, map.k, worker_.a_rows);
        out = shifted(out, rows, map.n, worker_.out_rows);
      }
      if (begin == end) continue;
      if (of_units) {
        // Runs of the gradient; of dz, too, unless that is the team's own.
        const bool wide = instr.out.space == Space::kStream;
        plan_.own.each_run(map.n, [&](int64_t first, int64_t at, int64_t n) {
          const int64_t dz = wide ? first - plan_.own.begin : at;
          weight_gradient(instr, map, g, rows, a, shifted(out, rows, dz, worker_.part_rows), first, n);
        });
      } else if (instr.kind == InstrKind::kGemm) {
        const T* bias = instr.bias < 0 ? nullptr : places_.vector(instr.bias) + g * map.n;
        const bool past_cache = goes_past_cache(instr.out);
        if (packed != nullptr) {
          k_.gemm(a, rows, map.k, packed, begin, end, out, bias, instr.accumulate, descending_, ahead,
                  past_cache);
        } else {
          const MatrixArg& arg = call_.maps[instr.id];
          k_.gemm_once(a, rows, map.k, static_cast<const T*>(arg.base) + g * arg.group_stride,
                       arg.k_stride, arg.n_stride, begin, end, out, bias, instr.accumulate, past_cache,
                       worker_.block);
        }
      } else {
        T* const* dz = begin == 0 ? out : shifted(out, rows, begin, worker_.part_rows);
        weight_gradient(instr, map, g, rows, a, dz, begin, end - begin);
      }
    }
  }

  // Whether a product stores its results past the cache: in a stream of whole lines.
  bool goes_past_cache(const Operand& out) const {
    if (!past_cache_ || out.space != Space::kStream || plan_.streams[out.id].kept) return false;
    return out.offset % (kLine / static_cast<int64_t>(sizeof(T))) == 0 && places_.in_whole_lines(out.id);
  }

  // Columns [begin, begin + n) of the gradient, from the n columns of dz.
  void weight_gradient(const Instr& instr, const Map& map, int64_t g, int64_t rows, const T* const* a,
                       const T* const* dz, int64_t begin, int64_t n) {
    const OuterArg& arg = call_.outers[instr.id];
    k_.outer(a, dz, rows, map.k, n,
             team_.outers[instr.id] + g * arg.group_stride + begin * arg.n_stride, arg.n_stride,
             arg.k_stride, worker_.outer_scratch);
  }

  // So many columns to the right of each row: in `room`, which may be where the rows' pointers are.
  static T* const* shifted(T* const* rows, int64_t count, int64_t columns, T** room) {
    for (int64_t i = 0; i < count; ++i) room[i] = rows[i] + columns;
    return room;
  }

  void segment(const Instr& instr, int64_t lo, int64_t hi) {
    if (lo == hi) return;
    const int64_t tile = std::min(instr.tile_rows, hi - lo);
    for (int64_t row = lo; row < hi; row += tile) {
      places_.place_tile(row, tile);
      const int64_t rows = std::min(tile, hi - row);
      for (const SegmentOp& op : instr.ops) segment_op(op, row, rows);
    }
  }

  void segment_op(const SegmentOp& op, int64_t row, int64_t rows) {
    In<T> in[kMaxSources];
    for (int i = 0; i < op.n_src; ++i) places_.point_at(op.src[i], row, in[i]);
    if (op.code < kGroupCode) {
      In<T> dst;
      places_.point_at(op.dst, row, dst);
      const int32_t code =
          op.copies_result && past_cache_ ? static_cast<int32_t>(Op::kCopyPastCache) : op.code;
      return k_.pointwise[code](const_cast<T*>(dst.p), dst.row_stride, in, rows, op.cols);
    }
    if (op.code == kCodeSumRows) {
      k_.sum_rows(worker_.sums[op.dst.id] + op.dst.offset, in[0], rows, op.cols);
      return;
    }
    if (op.code == kCodeSumRowsMul) {
      k_.sum_rows_mul(worker_.sums[op.dst.id] + op.dst.offset, in[0], in[1], rows, op.cols);
      return;
    }
    if (op.code == kCodeSumRowsMulNormalise) {
      k_.sum_rows_mul_normalise(worker_.sums[op.dst.id], in, rows, op.extra, op.cols / op.extra);
      return;
    }
    In<T> dst;
    places_.point_at(op.dst, row, dst);
    T* d = const_cast<T*>(dst.p);
    const int64_t groups = op.extra;
    switch (op.code) {
      case kCodeSum:
      case kCodeAmax: {
        // cols counts the features of the operand here, the destination has one for each group.
        const auto fn = op.code == kCodeSum ? k_.sum : k_.amax;
        fn(d, dst.row_stride, in[0], rows, groups, op.cols / groups);
        break;
      }
      case kCodeCumsum:
        k_.cumsum(d, dst.row_stride, in[0], rows, groups, op.cols / groups);
        break;
      case kCodeCumsumReverse:
        k_.cumsum_reverse(d, dst.row_stride, in[0], rows, groups, op.cols / groups);
        break;
      case kCodeExpand:
        k_.expand(d, dst.row_stride, in[0], rows, groups, op.cols / groups);
        break;
      case kCodeMoments:
        k_.moments(d, dst.row_stride, in[0], *in[1].p, rows, groups, op.cols / groups);
        break;
      case kCodeNormalise:
        k_.normalise(d, dst.row_stride, in[0], in[1], rows, groups, op.cols / groups);
        break;
      case kCodeNormaliseGrad:
        k_.normalise_grad(d, dst.row_stride, in, rows, groups, op.cols / groups);
        break;
      case kCodeNormaliseMulAdd:
        k_.normalise_mul_add(d, dst.row_stride, in, rows, groups, op.cols / groups);
        break;
      case kCodeNormaliseGradRaw:
        k_.normalise_grad_raw(d, dst.row_stride, in, rows, groups, op.cols / groups);
        break;
      case kCodeTake:
        k_.take(d, dst.row_stride, in[0], rows, plan_.tables[op.extra].data(), op.cols);
        break;
      case kCodePut: {
        const auto& index = plan_.tables[op.extra];
        k_.put(d, dst.row_stride, in[0], rows, index.data(), static_cast<int64_t>(index.size()),
               op.cols);
        break;
      }
      default:
        break;
    }
  }

  // Inference: whoever reads the output does so after the call, on one core or on others.
  bool is_read_by_none() const { return !plan_.backward && !call_.read_again; }

  // Of the team's rows, in all steps.
  int64_t passing_bytes() const {
    int64_t width = 0;
    for (const Passing& p : plan_.passing) width += plan_.streams[p.stream].width;
    return bytes_of_columns(width);
  }

  int64_t result_bytes() const {
    int64_t width = 0;
    for (int32_t id : plan_.results) width += plan_.streams[id].width;
    return bytes_of_columns(width);
  }

  int64_t bytes_of_columns(int64_t width) const {
    return width * team_.rows * call_.steps * static_cast<int64_t>(sizeof(T));
  }

  void clear_gradients() {
    for (size_t i = 0; i < plan_.sums.size(); ++i) {
      std::fill(worker_.sums[i], worker_.sums[i] + plan_.sums[i], T(0));
    }
    for (size_t i = 0; i < plan_.outers.size(); ++i) {
      const Map& m = plan_.outers[i];
      if (plan_.own.run > 0) {
        clear_gradient_of_units(m, call_.outers[i], team_.outers[i]);
        continue;
      }
      const int64_t size = m.groups * m.k * m.n;
      std::fill(team_.outers[i] + size * crew_.index / crew_.count,
                team_.outers[i] + size * (crew_.index + 1) / crew_.count, T(0));
    }
    meet();
  }

  void clear_gradient_of_units(const Map& m, const OuterArg& arg, T* g) {
    plan_.own.each_run(m.n, [&](int64_t first, int64_t, int64_t n) {
      if (arg.n_stride != 1) return std::fill(g + first * m.k, g + (first + n) * m.k, T(0));
      for (int64_t i = 0; i < m.k; ++i) std::fill(g + i * m.n + first, g + i * m.n + first + n, T(0));
    });
  }

  const Plan& plan_;
  const Call& call_;
  const Kernels<T>& k_;
  const Shared<T>& shared_;
  const Worker<T>& worker_;
  Team<T>& team_;
  Places<T> places_;
  UnitProducts<T> unit_products_;
  const Crew everybody_;
  Crew crew_;
  const bool beside_others_;  // whether other teams have rows of the same steps
  // Whether results go past the cache: where it couldn't hold them, and what backward won't find in
  // there anyway. Lines needn't be read before they are written, nor, fetched in advance, be taken back
  // from another core.
  const bool past_cache_;
  int64_t done_ = 0;  // steps before the chunk, in the order of running
  int64_t first_ = 0, last_ = 0;  // steps of the chunk
  int parity_ = 0;
  // Every second pass over a map goes from its end to its beginning: of a map larger than a cache,
  // what the last pass read last is in there still.
  bool descending_ = false, odd_chunk_ = false;
  // Whether products ask memory for what the next step needs; what a cache holds they needn't, but in
  // tests they do.
  const bool asks_;
};

}  // namespace

template <class T>
int64_t run_plan(const Plan& plan, const Call& call) {
  static thread_local Scratches scratches;
  static thread_local Roster<T> roster;
  std::vector<Team<T>>& teams = roster.teams;
  std::vector<Worker<T>>& workers = roster.workers;
  Shared<T> shared{plan, call, kernels<T>(), roster.consts, roster.kept, nullptr, 1, 1, teams};
  shared.consts.assign(plan.consts.begin(), plan.consts.end());

  int64_t loop_bytes = 0, map_bytes = 0;
  bool packed = false;  // whether any of the loop's maps is
  for (size_t i = 0; i < plan.maps.size(); ++i) {
    const int64_t bytes = bytes_of<T>(plan.maps[i]);
    map_bytes += bytes;
    if (!plan.maps[i].in_loop) continue;
    loop_bytes += bytes;
    packed = packed || !shared.unpacked(i);
  }
  const auto [n_teams, members, divided] =
      divide(plan, call, loop_bytes, map_bytes, packed, shared.kernels.vector_width);
  const bool relay = divided == Division::kRelay && members > 1, by_units = divided == Division::kUnits;
  const std::vector<Plan>* unit_plans =
      by_units ? &plan.unit_plans->of(plan, n_teams, shared.kernels.vector_width) : nullptr;
  shared.threads = static_cast<int>(n_teams * members);
  const bool chunked = by_units || !plan.phases[kPre].empty() || !plan.phases[kPost].empty();
  const int64_t many = chunk_rows<T>(plan);
  const bool own_maps = by_units || (n_teams > 1 && map_bytes <= kOwnMapBytes);
  const int64_t divisions = by_units ? 1 : n_teams;  // of rows
  const std::vector<int64_t> bounds = divide_rows(call, divisions);
  const int64_t kept_blocks = plan.backward ? call.kept_blocks : divisions;
  roster.kept.set(call, kept_blocks == divisions ? bounds : divide_rows(call, kept_blocks));
  teams.resize(static_cast<size_t>(n_teams));
  workers.resize(static_cast<size_t>(shared.threads));
  for (int64_t t = 0; t < n_teams; ++t) {
    Team<T>& team = teams[t];
    team.plan = by_units ? &(*unit_plans)[t] : &plan;
    team.index = static_cast<int>(t);
    team.begin = by_units ? 0 : bounds[t];
    team.rows = by_units ? call.rows : bounds[t + 1] - bounds[t];
    team.members = static_cast<int>(members);
    team.relay = relay;
    team.own_maps = own_maps;
    team.chunk_steps = std::max<int64_t>(1, call.steps);
    if (chunked && team.rows > 0) {
      const int64_t wanted = relay || team.rows == 1 ? kFewRows : many;
      const int64_t steps = (wanted + team.rows - 1) / team.rows;
      const int64_t most = relay ? (team.chunk_steps + 1) / 2 : team.chunk_steps;
      team.chunk_steps = std::clamp<int64_t>(steps, 1, most);
    }
    team.chunk_rows = team.rows * team.chunk_steps;
    const int64_t chunks = (call.steps + team.chunk_steps - 1) / team.chunk_steps;
    shared.chunks = std::max(shared.chunks, chunks);
    team.barrier.reset(members > 1 ? new Barrier(team.members) : nullptr);
    team.helpers.reset(relay && members > 2 ? new Barrier(team.members - 1) : nullptr);
    for (int64_t m = 0; m < members; ++m) {
      Worker<T>& worker = workers[t * members + m];
      worker.team = &team;
      worker.index = static_cast<int>(t * members + m);
      worker.member = static_cast<int>(m);
    }
  }
  scratches.lay_out(shared.threads, call.poison,
                    [&] { allocate(scratches, shared, teams, workers); });
  int64_t widest = 1;
  for (const Stream& s : plan.streams) widest = std::max(widest, s.width);
  std::fill(shared.zeros, shared.zeros + widest, T(0));

  Padding<T> padding(plan, call);
  Barrier all(shared.threads);
  parallel(shared.threads, static_cast<int>(call.threads), [&](int w) {
    const FlushDenormals flush;
    pack_maps(shared, workers[w]);
    Barrier* packed = own_maps && !by_units ? workers[w].team->barrier.get() : &all;
    if (packed != nullptr) packed->wait();
    Body<T>(shared, workers[w]).run();
    padding.clear();
    fence_past_cache();  // before the barrier after which the caller reads
    if (shared.threads > 1) all.wait();
    reduce(shared, teams, workers, w);
  });
  scratches.release_if_large();
  roster.kept.release_if_large();
  return divisions;
}

template int64_t run_plan<float>(const Plan&, const Call&);
template int64_t run_plan<double>(const Plan&, const Call&);

}  // namespace ostinato

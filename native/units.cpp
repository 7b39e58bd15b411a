#include "units.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

#include "plan.h"

namespace ostinato {
namespace {

bool by_column(const SegmentOp& op) {
  return op.code < kGroupCode || op.code == kCodeSumRows || op.code == kCodeSumRowsMul;
}

// In memory of the caller's, or the same for all threads: as wide as ever.
bool is_wide(const Operand& o) { return o.space == Space::kStream || o.space == Space::kVector; }

template <class F>
void each_instr(const Plan& plan, const F& f) {
  for (const auto& phase : plan.phases) {
    for (const Instr& instr : phase) f(instr);
  }
}

// The widest run of which all values are made and in which every operation keeps a column where it
// is; 0: there is none.
class Runs {
 public:
  explicit Runs(const Plan& plan) : plan_(plan) {}

  // Sets Plan::units and its most_unit_threads.
  void find(Plan& plan) {
    for (const auto* widths : {&plan_.carry, &plan_.step, &plan_.chunk, &plan_.tile, &plan_.sums}) {
      for (int64_t width : *widths) divide_by(width);
    }
    each_instr(plan_, [&](const Instr& instr) {
      for (const SegmentOp& op : instr.ops) operation(op);
    });
    each_instr(plan_, [&](const Instr& instr) {
      if (instr.kind == InstrKind::kGemm) product(instr);
      if (instr.kind == InstrKind::kOuter) weight_gradient(instr);
    });
    for (int32_t id : written_) none_ |= read_whole_.count(id) > 0;
    for (int64_t width : cut_) none_ |= width != run_;
    plan.units = none_ ? 0 : run_;
    plan.most_unit_threads = std::min(plan.units, narrowest_);
  }

 private:
  void divide_by(int64_t columns) { run_ = std::gcd(run_, columns); }

  void operation(const SegmentOp& op) {
    none_ |= !by_column(op);
    divide_by(op.cols);
    divide_by(op.dst.offset);
    if (op.dst.space == Space::kStream) {
      divide_by(plan_.streams[op.dst.id].width);
      by_column_.insert(op.dst.id);
      written_.insert(op.dst.id);
    }
    for (int i = 0; i < op.n_src; ++i) {
      const Operand& o = op.src[i];
      if (!o.broadcast) {
        divide_by(o.offset);
        if (o.space == Space::kStream) by_column_.insert(o.id);
      } else if (o.space == Space::kStream) {
        read_whole(o.id);
      } else {
        none_ |= o.space != Space::kConst && o.space != Space::kVector;
      }
    }
  }

  void product(const Instr& instr) {
    const Map& map = plan_.maps[instr.id];
    none_ |= map.groups > 1;
    if (instr.a.space == Space::kStream) {
      read_whole(instr.a.id);
    } else {
      divide_by(map.k);
      divide_by(instr.a.offset);
    }
    if (instr.out.space == Space::kStream) written_.insert(instr.out.id);
    if (is_apart(instr)) {
      narrowest_ = std::min(narrowest_, map.n);
      return;
    }
    divide_by(map.n);
    divide_by(instr.out.offset);
    if (instr.out.space == Space::kStream) cut_.push_back(map.n);
  }

  void weight_gradient(const Instr& instr) {
    const Map& map = plan_.outers[instr.id];
    none_ |= map.groups > 1 || instr.a.space != Space::kStream;
    if (instr.a.space == Space::kStream) read_whole(instr.a.id);
    divide_by(map.n);
    divide_by(instr.out.offset);
  }

  // A product's result that only products touch may be divided apart from units.
  bool is_apart(const Instr& instr) const {
    return instr.out.space == Space::kStream && by_column_.count(instr.out.id) == 0;
  }

  // By columns that are another thread's.
  void read_whole(int32_t id) {
    read_whole_.insert(id);
    read_whole_.insert(plan_.streams[id].previous_of);
  }

  const Plan& plan_;
  int64_t run_ = 0, narrowest_ = std::numeric_limits<int64_t>::max();
  bool none_ = false;
  std::set<int32_t> written_, read_whole_, by_column_;  // streams
  std::vector<int64_t> cut_;  // widths that must be one run, or a row's units would lie apart
};

// One thread's plan.
class Narrow {
 public:
  Narrow(const Plan& plan, int64_t index, int64_t count, int64_t grain)
      : plan_(plan), index_(index), grain_(grain), own_(plan.units, grain, index, count) {
    for (int64_t i = 0; i < count; ++i) shares_.emplace_back(plan.units, grain, i, count);
  }

  Plan make() {
    Plan narrow = plan_;
    narrow.unit_plans.reset();
    narrow.own = own_;
    narrow.shares = shares_;
    for (auto* widths : {&narrow.carry, &narrow.step, &narrow.chunk, &narrow.tile, &narrow.sums}) {
      for (int64_t& width : *widths) width = own_.compact(width);
    }
    narrow.maps.clear();
    narrow.passing.clear();  // what is asked for would be whole rows
    stage(narrow);
    for (int phase : {kPre, kLoop, kPost}) {
      for (Instr& instr : narrow.phases[phase]) {
        if (instr.kind == InstrKind::kGemm) product(narrow, instr);
        if (instr.kind == InstrKind::kSegment) segment(instr);
        if (instr.kind == InstrKind::kOuter) move(instr.out, 0);
      }
    }
    survey_operands(narrow);
    return narrow;
  }

 private:
  // Streams that segments of the loop write, unless others see them before the chunk's end.
  void stage(Plan& narrow) const {
    for (int32_t id : plan_.segment_writes[kLoop]) {
      const auto is_seen = [&](const Stream& s) { return s.previous_of == id; };
      if (std::any_of(plan_.streams.begin(), plan_.streams.end(), is_seen) || is_multiplied(id)) continue;
      const auto chunk = static_cast<int32_t>(narrow.chunk.size());
      const auto slot = static_cast<int32_t>(narrow.slots.size());
      narrow.chunk.push_back(own_.compact(plan_.streams[id].width));
      narrow.slots.push_back({Space::kChunk, chunk});
      narrow.moving_slots.push_back(slot);
      narrow.staged.push_back({id, chunk});
      const auto redirect = [&](Operand& o) {
        if (o.space != Space::kStream || o.id != id) return;
        o.space = Space::kChunk;
        o.id = chunk;
        o.slot = slot;
      };
      for (int phase : {kPre, kLoop, kPost}) {
        for (Instr& instr : narrow.phases[phase]) {
          for (SegmentOp& op : instr.ops) {
            redirect(op.dst);
            for (int i = 0; i < op.n_src; ++i) redirect(op.src[i]);
          }
        }
        std::erase(narrow.segment_writes[phase], id);
        std::erase_if(narrow.segment_opens[phase], [&](const Opening& o) { return o.stream == id; });
      }
    }
  }

  bool is_multiplied(int32_t id) const {
    bool found = false;
    each_instr(plan_, [&](const Instr& instr) {
      if (instr.kind == InstrKind::kSegment) return;
      for (const Operand& o : {instr.a, instr.out}) found |= o.space == Space::kStream && o.id == id;
    });
    return found;
  }

  void product(Plan& narrow, Instr& instr) const {
    const Map& map = plan_.maps[instr.id];
    SharedMap shared{instr.id, instr.bias, Exchange::kNone, map.k, map.n, {}, {}, {}, {}};
    const bool whole = instr.a.space == Space::kStream, apart = instr.out.space == Space::kStream;
    if (!whole) shared.exchange = map.k < map.n ? Exchange::kInputs : Exchange::kSums;
    int64_t before = 0;
    for (size_t t = 0; t < shares_.size(); ++t) {
      // What lies apart from units, or is one run of them.
      shared.columns_of.push_back(
          apart ? Units(map.n, grain_, static_cast<int64_t>(t), static_cast<int64_t>(shares_.size()))
                : shares_[t]);
      shared.rows.push_back(whole ? map.k : shares_[t].compact(map.k));
      shared.columns.push_back(shared.columns_of[t].compact(map.n));
      shared.columns_before.push_back(before);
      before += shared.columns.back();
    }
    instr.id = static_cast<int32_t>(narrow.maps.size());
    narrow.maps.push_back({shared.rows[index_], shared.columns[index_], 1});
    if (!whole) move(instr.a, 0);
    if (apart) {
      instr.out.offset += static_cast<int32_t>(shared.columns_of[index_].begin);
    } else {
      move(instr.out, 0);
    }
    narrow.shared_maps.push_back(std::move(shared));
  }

  // An operand of own columns of run `run`.
  void move(Operand& o, int64_t run) const {
    if (o.broadcast) return;
    o.offset = static_cast<int32_t>(is_wide(o) ? o.offset + run * own_.run + own_.begin
                                               : own_.compact(o.offset) + run * own_.width());
  }

  // All runs at once, where they lie side by side.
  void segment(Instr& instr) const {
    std::vector<SegmentOp> ops;
    for (const SegmentOp& op : instr.ops) {
      bool wide = !op.dst.broadcast && is_wide(op.dst);
      for (int i = 0; i < op.n_src; ++i) wide |= !op.src[i].broadcast && is_wide(op.src[i]);
      const int64_t parts = wide ? op.cols / own_.run : 1;
      for (int64_t part = 0; part < parts; ++part) {
        SegmentOp& own = ops.emplace_back(op);
        own.cols = own_.compact(op.cols) / parts;
        move(own.dst, part);
        for (int i = 0; i < op.n_src; ++i) move(own.src[i], part);
      }
    }
    instr.ops = std::move(ops);
  }

  const Plan& plan_;
  const int64_t index_, grain_;
  const Units own_;
  std::vector<Units> shares_;
};

}  // namespace

void find_units(Plan& plan) {
  Runs(plan).find(plan);
  if (plan.units > 0) plan.unit_plans = std::make_shared<UnitPlans>();
}

const std::vector<Plan>& UnitPlans::of(const Plan& plan, int64_t count, int64_t grain) {
  const std::lock_guard lock(mutex_);
  for (const Made& made : made_) {
    if (made.count == count && made.grain == grain) return *made.plans;
  }
  auto plans = std::make_unique<std::vector<Plan>>();
  for (int64_t i = 0; i < count; ++i) plans->push_back(Narrow(plan, i, count, grain).make());
  return *made_.emplace_back(Made{count, grain, std::move(plans)}).plans;
}

}  // namespace ostinato

#include "plan.h"

#include <algorithm>
#include <stdexcept>

namespace ostinato {
namespace {

class Reader {
 public:
  explicit Reader(const std::vector<int64_t>& code) : code_(code) {}

  int64_t next() {
    if (at_ >= code_.size()) throw std::invalid_argument("plan: the code ends too early");
    return code_[at_++];
  }
  bool at_end() const { return at_ == code_.size(); }

  std::vector<int64_t> list() {
    std::vector<int64_t> out(static_cast<size_t>(next()));
    for (auto& v : out) v = next();
    return out;
  }

  Operand operand() {
    Operand o;
    o.space = static_cast<Space>(next());
    o.id = static_cast<int32_t>(next());
    o.offset = static_cast<int32_t>(next());
    o.broadcast = next() != 0 || o.space == Space::kConst;
    return o;
  }

 private:
  const std::vector<int64_t>& code_;
  size_t at_ = 0;
};

Map read_map(Reader& in) {
  Map m;
  m.groups = in.next();
  m.k = in.next();
  m.n = in.next();
  return m;
}

Instr read_instr(Reader& in) {
  Instr instr;
  instr.kind = static_cast<InstrKind>(in.next());
  if (instr.kind == InstrKind::kSegment) {
    instr.ops.resize(static_cast<size_t>(in.next()));
    for (SegmentOp& op : instr.ops) {
      op.code = static_cast<int32_t>(in.next());
      op.cols = in.next();
      op.extra = in.next();
      op.dst = in.operand();
      op.n_src = static_cast<int32_t>(in.next());
      if (op.n_src < 1 || op.n_src > kMaxSources) {
        throw std::invalid_argument("plan: 1 to 4 operands");
      }
      for (int i = 0; i < op.n_src; ++i) op.src[i] = in.operand();
    }
    return instr;
  }
  instr.id = static_cast<int32_t>(in.next());
  instr.a = in.operand();
  instr.out = in.operand();
  instr.bias = static_cast<int32_t>(in.next());
  instr.accumulate = in.next() != 0;
  return instr;
}

bool contains(const std::vector<int32_t>& list, int32_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

void add_once(std::vector<int32_t>& list, int32_t value) {
  if (!contains(list, value)) list.push_back(value);
}

void give_slot(Plan& plan, Operand& o) {
  if (o.space == Space::kSum) return;
  const auto found = std::find_if(plan.slots.begin(), plan.slots.end(), [&](const Slot& slot) {
    return slot.space == o.space && slot.id == o.id;
  });
  o.slot = static_cast<int32_t>(found - plan.slots.begin());
  if (found != plan.slots.end()) return;
  plan.slots.push_back({o.space, o.id});
  switch (o.space) {
    case Space::kTile:
      plan.tile_slots.push_back(o.slot);
      break;
    case Space::kCarryIn:
    case Space::kCarryOut:
    case Space::kChunk:
      plan.moving_slots.push_back(o.slot);
      break;
    case Space::kStream:
      plan.stream_slots[o.id] = o.slot;
      break;
    default:
      break;
  }
}

void give_list(Plan& plan, Operand& o) {
  if (o.space == Space::kStream) return;
  const auto found = std::find_if(plan.lists.begin(), plan.lists.end(), [&](const Operand& other) {
    return other.space == o.space && other.id == o.id && other.offset == o.offset;
  });
  o.list = static_cast<int32_t>(found - plan.lists.begin());
  if (found == plan.lists.end()) plan.lists.push_back(o);
}

void add_result(Plan& plan, const Operand& o) {
  if (o.space == Space::kStream && !plan.streams[o.id].kept) add_once(plan.results, o.id);
}

// What an element that a segment writes costs, in multiply-adds.
constexpr int64_t kElementWork = 16;

// Multiply-adds, or what takes as long, for one row.
int64_t work_of(const Plan& plan, const Instr& instr) {
  if (instr.kind == InstrKind::kSegment) return instr.touched * kElementWork;
  const Map& m = instr.kind == InstrKind::kGemm ? plan.maps[instr.id] : plan.outers[instr.id];
  return m.groups * m.k * m.n;
}

// Elements of one row that lie in the chunk's buffers.
int64_t crossing_of(const Plan& plan, const Instr& instr) {
  if (instr.kind == InstrKind::kSegment) return 0;
  const Map& m = instr.kind == InstrKind::kGemm ? plan.maps[instr.id] : plan.outers[instr.id];
  return m.groups * ((instr.a.space == Space::kChunk ? m.k : 0) +
                     (instr.out.space == Space::kChunk ? m.n : 0));
}

}  // namespace

Plan decode_plan(const std::vector<int64_t>& code, const std::vector<double>& consts) {
  Reader in(code);
  Plan plan;
  plan.consts = consts;
  plan.backward = in.next() != 0;
  plan.streams.resize(static_cast<size_t>(in.next()));
  plan.stream_slots.assign(plan.streams.size(), -1);
  for (Stream& s : plan.streams) {
    s.width = in.next();
    s.kept = in.next() != 0;
    s.previous_of = static_cast<int32_t>(in.next());
    plan.keeps |= s.kept;
  }
  plan.carry = in.list();
  plan.step = in.list();
  plan.chunk = in.list();
  plan.tile = in.list();
  plan.maps.resize(static_cast<size_t>(in.next()));
  for (Map& m : plan.maps) m = read_map(in);
  plan.sums = in.list();
  plan.outers.resize(static_cast<size_t>(in.next()));
  for (Map& m : plan.outers) m = read_map(in);
  plan.tables.resize(static_cast<size_t>(in.next()));
  for (auto& t : plan.tables) t = in.list();
  std::vector<int32_t> hoisted, passing, deferred, wanted;
  for (int phase = 0; phase < 3; ++phase) {
    plan.phases[phase].resize(static_cast<size_t>(in.next()));
    std::vector<int32_t> reads;
    for (Instr& instr : plan.phases[phase]) {
      instr = read_instr(in);
      if (instr.kind != InstrKind::kSegment) {
        give_slot(plan, instr.a);
        give_slot(plan, instr.out);
        const bool from = instr.a.space == Space::kStream, to = instr.out.space == Space::kStream;
        auto& due = phase == kPre ? hoisted : phase == kLoop ? passing : deferred;
        if (from) add_once(due, instr.a.id);
        if (from) add_once(wanted, instr.a.id);
        if (to) add_once(due, instr.out.id);
        if (to && instr.kind == InstrKind::kOuter) add_once(wanted, instr.out.id);
      }
      if (instr.kind == InstrKind::kGemm) {
        add_result(plan, instr.out);
        plan.maps[instr.id].in_loop |= phase == kLoop;
      }
      for (SegmentOp& op : instr.ops) {
        for (int i = 0; i < op.n_src; ++i) {
          give_slot(plan, op.src[i]);
          if (op.src[i].space == Space::kStream) add_once(reads, op.src[i].id);
        }
        give_slot(plan, op.dst);
        if (op.dst.space == Space::kStream) add_once(plan.segment_writes[phase], op.dst.id);
        add_result(plan, op.dst);
        op.copies_result = op.code == static_cast<int32_t>(Op::kCopy) &&
                           op.dst.space == Space::kStream && !plan.streams[op.dst.id].kept;
        if (op.dst.space == Space::kStream && !op.copies_result) add_once(wanted, op.dst.id);
      }
      if (phase != kLoop) plan.crossing += crossing_of(plan, instr);
    }
    for (int32_t id : reads) {
      plan.segment_opens[phase].push_back({id, true});
      add_once(wanted, id);
    }
    for (int32_t id : plan.segment_writes[phase]) {
      if (!contains(reads, id)) plan.segment_opens[phase].push_back({id, false});
    }
    if (phase == kLoop) {
      for (const Opening& o : plan.segment_opens[phase]) add_once(passing, o.stream);
    }
  }
  const auto is_source = [&](int32_t id) {
    return std::any_of(passing.begin(), passing.end(),
                       [&](int32_t other) { return plan.streams[other].previous_of == id; });
  };
  const auto pass = [&](int32_t id, Due due) {
    plan.passing.push_back({id, due, !contains(wanted, id)});
  };
  for (int32_t id : passing) {
    if (!contains(hoisted, id) && !is_source(id)) pass(id, Due::kNextStep);
  }
  for (int32_t id : hoisted) pass(id, Due::kNextChunk);
  for (int32_t id : deferred) {
    if (!contains(hoisted, id) && !contains(passing, id) && !is_source(id)) pass(id, Due::kAfterLoop);
  }
  if (!in.at_end()) throw std::invalid_argument("plan: the code goes on after its end");
  survey_operands(plan);
  for (int phase = 0; phase < 3; ++phase) {
    for (const Instr& instr : plan.phases[phase]) plan.work[phase] += work_of(plan, instr);
  }
  find_units(plan);
  return plan;
}

void survey_operands(Plan& plan) {
  plan.tile_begin.clear();
  plan.lists.clear();
  plan.opened.clear();
  plan.tile_width = 0;
  for (int64_t width : plan.tile) {
    plan.tile_begin.push_back(plan.tile_width);
    plan.tile_width += width;
  }
  for (auto& phase : plan.phases) {
    for (Instr& instr : phase) {
      instr.touched = 1;
      for (const SegmentOp& op : instr.ops) instr.touched += op.cols;
      const int64_t width = std::max(instr.touched, plan.tile_width);
      instr.tile_rows = std::max<int64_t>(kTileElements / width, 1);
      if (instr.kind == InstrKind::kSegment) continue;
      give_list(plan, instr.a);
      give_list(plan, instr.out);
    }
  }
  for (const auto& opens : plan.segment_opens) {
    for (const Opening& o : opens) add_once(plan.opened, o.stream);
  }
}

}  // namespace ostinato

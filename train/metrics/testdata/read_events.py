"""Print, as JSON, what TensorBoard's own reader finds in a directory of event files."""
import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0})
events.Reload()
scalars = {t: [[e.step, round(e.value, 6)] for e in events.Scalars(t)] for t in events.Tags()["scalars"]}
texts = {
    t: [[e.step, e.tensor_proto.string_val[0].decode()] for e in events.Tensors(t)]
    for t in events.Tags()["tensors"]
    if events.SummaryMetadata(t).plugin_data.plugin_name == "text"
}
print(json.dumps({"scalars": scalars, "texts": texts, "first": events.Scalars("train/loss")[0].wall_time}))

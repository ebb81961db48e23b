package checkpoint

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/chainrule-go/chainrule"
)

const (
	optimizerFile = "optimizer.safetensors"
	averageFile   = "average.safetensors"
	trainerFile   = "trainer.json"

	statePrefix = "checkpoint-"
	stateOld    = ".old" // a state that one of the same step takes the place of
	firstMoment = "exp_avg."
	secndMoment = "exp_avg_sq."
)

// stateFiles are the files that trainer.json vouches for, in the order in
// which they are written. The average need not be there.
var stateFiles = []string{configFile, weightsFile, optimizerFile, averageFile}

// State is a training run between two steps.
type State struct {
	Model     *chainrule.Model
	Optimizer *chainrule.AdamState
	Average   *chainrule.Params // of the weights over the steps; nil: none
	Step      int               // steps done
	Seed      uint64            // of the run
	Position  int64             // in the data, in units of the data's reader
	Hyper     json.RawMessage   // the run's hyperparameters: any JSON value, kept as it is; nil is null

	// Damaged says why LoadState passed over states of later steps. SaveState
	// does not look at it.
	Damaged []error
}

// SaveState writes dir/checkpoint-<step>, a Hugging Face model directory (see
// SaveDir) with some more files, and returns its path:
//
//   - optimizer.safetensors: Adam's moments, in float32, as "exp_avg." and
//     "exp_avg_sq." before the name of the weight, rows in the weight's order;
//   - average.safetensors, if there is an Average: a model.safetensors of it;
//   - trainer.json: the other fields of State, the size and SHA-256 of every
//     file, and a SHA-256 of itself, taken with its own 64 digits as zeros.
//
// The state is written under another name, synced, read again and compared, and
// renamed. Only then are the states of earlier steps removed, but for those of
// the steps in keep: a process killed at any instant, or a machine that loses
// power, leaves the old or the new state whole. A state of the same step is
// replaced. A whole state of a later step is ErrNewer, so
// that a run begun anew does not end an old one; a damaged one is renamed to
// damaged-checkpoint-<step>. What killed saves left is removed. One process at
// a time may save to dir; any may load from it meanwhile.
//
// If the path is not empty although there is an error, the state was saved and
// tidying up failed. SaveState panics if Model or Optimizer is nil or of
// another shape, or a number is negative.
func SaveState(dir string, s *State, keep ...int) (path string, err error) {
	if s == nil || s.Model == nil || s.Optimizer == nil {
		panic("checkpoint: SaveState: no Model or no Optimizer")
	}
	if n := s.Model.NumParams(); len(s.Optimizer.M) != n || len(s.Optimizer.V) != n {
		panic("checkpoint: SaveState: Optimizer is of another shape than Model")
	}
	if s.Average != nil && len(s.Average.Data) != s.Model.NumParams() {
		panic("checkpoint: SaveState: Average is of another shape than Model")
	}
	if s.Step < 0 || s.Optimizer.Step < 0 || s.Position < 0 {
		panic("checkpoint: SaveState: a negative Step or Position")
	}
	if len(s.Hyper) > 0 && !json.Valid(s.Hyper) {
		return "", fmt.Errorf("%w: the hyperparameters are not JSON", ErrConfig)
	}
	if err := makeDir(dir); err != nil {
		return "", err
	}
	if err := SweepStates(dir); err != nil {
		return "", err
	}
	if err := wantNewest(dir, s.Step); err != nil {
		return "", err
	}
	base := statePrefix + strconv.Itoa(s.Step)
	tmp := aside(dir, base)
	if err := change("mkdir", tmp, func() error { return os.Mkdir(tmp, 0o777) }); err != nil {
		return "", err
	}
	err = writeState(tmp, s)
	if err == nil {
		err = change("verify", tmp, func() error { _, err := verify(tmp); return err })
	}
	if err != nil {
		os.RemoveAll(tmp)
		return "", err
	}
	path = filepath.Join(dir, base)
	if err := moveIntoPlace(dir, base, tmp); err != nil {
		os.RemoveAll(tmp)
		return "", err
	}
	if err := syncNames(dir); err != nil {
		return path, err
	}
	old, err := states(dir)
	if err != nil {
		return path, err
	}
	for _, o := range old {
		if o.step <= s.Step && o.name != base && (o.old || !slices.Contains(keep, o.step)) {
			if err := remove(dir, o.name); err != nil {
				return path, err
			}
		}
	}
	return path, nil
}

// SweepStates removes what killed saves left in dir. SaveState does so, too.
func SweepStates(dir string) error {
	return sweep(dir, temporary+statePrefix, removing+statePrefix)
}

// Info is what is known of a state without reading its weights.
type Info struct {
	Path  string
	Step  int
	Hyper json.RawMessage
}

// States returns the states in dir, the oldest first. Those whose trainer.json
// is damaged are left out; other files are not looked at.
func States(dir string) ([]Info, error) {
	there, err := states(dir)
	if err != nil {
		return nil, err
	}
	var all []Info
	for _, s := range slices.Backward(there) {
		path := filepath.Join(dir, s.name)
		if t, err := readTrainer(path); err == nil && !s.old {
			all = append(all, Info{path, t.step, t.hyper})
		}
	}
	return all, nil
}

// writeState fills the new directory dir with the files of s.
func writeState(dir string, s *State) error {
	c := s.Model.Config
	m, err := chainrule.ParamsOf(c, s.Optimizer.M)
	if err != nil {
		return err
	}
	v, err := chainrule.ParamsOf(c, s.Optimizer.V)
	if err != nil {
		return err
	}
	writers := map[string]func(io.Writer) error{
		configFile:    writeBytes(marshalConfig(c, Generation{}, "float32")),
		weightsFile:   writeTensors(entries(nil, "", "F32", c, s.Model.Params), nil),
		optimizerFile: writeTensors(entries(entries(nil, firstMoment, "F32", c, m), secndMoment, "F32", c, v), nil),
	}
	if s.Average != nil {
		writers[averageFile] = writeTensors(entries(nil, "", "F32", c, s.Average), nil)
	}
	t := trainer{
		step: s.Step, optimizerStep: s.Optimizer.Step, seed: s.Seed, position: s.Position, hyper: s.Hyper,
		files: map[string]digest{},
	}
	for _, name := range stateFiles {
		if writers[name] == nil {
			continue
		}
		if t.files[name], err = createFile(filepath.Join(dir, name), writers[name]); err != nil {
			return err
		}
	}
	b := t.marshal()
	if _, err := parseTrainer(b); err != nil {
		return fmt.Errorf("the hyperparameters cannot be stored: %w", err)
	}
	if _, err := createFile(filepath.Join(dir, trainerFile), writeBytes(b)); err != nil {
		return err
	}
	return syncNames(dir)
}

// moveIntoPlace renames tmp to base. A state that has this name is first
// renamed to base.old, under which LoadState finds it as well.
func moveIntoPlace(dir, base, tmp string) error {
	path := filepath.Join(dir, base)
	if _, err := os.Lstat(path); err == nil {
		if _, err := os.Lstat(filepath.Join(path, trainerFile)); err != nil {
			return fmt.Errorf("%s is there and is not a training state: %w", path, err)
		}
		old := base + stateOld
		if _, err := os.Lstat(filepath.Join(dir, old)); err == nil {
			if err := remove(dir, old); err != nil {
				return err
			}
		}
		if err := rename(path, filepath.Join(dir, old)); err != nil {
			return err
		}
		if err := syncNames(dir); err != nil {
			return err
		}
	}
	return rename(tmp, path)
}

// wantNewest returns an error if dir has a whole state of a later step than
// step, and sets damaged ones aside.
func wantNewest(dir string, step int) error {
	there, err := states(dir)
	if err != nil {
		return err
	}
	for _, s := range there {
		if s.step <= step {
			continue
		}
		path := filepath.Join(dir, s.name)
		switch _, err := verify(path); {
		case err == nil:
			return fmt.Errorf("%w: %s; resume from it, move it away, or save elsewhere", ErrNewer, path)
		case !damaged(err):
			return err
		}
		away := filepath.Join(dir, "damaged-"+s.name)
		for i := 2; ; i++ {
			if _, err := os.Lstat(away); err != nil {
				break
			}
			away = filepath.Join(dir, fmt.Sprintf("damaged-%s-%d", s.name, i))
		}
		if err := rename(path, away); err != nil {
			return err
		}
	}
	return nil
}

// state is a directory that is, or was, a training state.
type state struct {
	name string
	step int
	old  bool
}

// states lists the training states in dir, the newest first.
func states(dir string) ([]state, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var there []state
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), statePrefix)
		digits, old := strings.CutSuffix(digits, stateOld)
		step, err := strconv.Atoi(digits)
		if !ok || err != nil || step < 0 || strconv.Itoa(step) != digits {
			continue
		}
		// Others make directories of this name too.
		if _, err := os.Lstat(filepath.Join(dir, e.Name(), trainerFile)); err != nil {
			continue
		}
		there = append(there, state{e.Name(), step, old})
	}
	slices.SortFunc(there, func(a, b state) int {
		if c := cmp.Compare(b.step, a.step); c != 0 || a.old == b.old {
			return c
		} else if a.old {
			return 1
		}
		return -1
	})
	return there, nil
}

// damaged reports whether err says that a state is not what was once written.
// Anything else, a disk that fails to be read or a format of a later version,
// must not make a run go back to an earlier step.
func damaged(err error) bool {
	return errors.Is(err, ErrChecksum) || errors.Is(err, ErrTruncated) || errors.Is(err, fs.ErrNotExist)
}

// LoadState reads the training state dir, or else the newest one in dir, and
// returns its path. Every byte is checked against trainer.json: a file that is
// not what was written is ErrTruncated or ErrChecksum. If the newest state is
// so damaged and an older one is whole, that is loaded, and State.Damaged says
// what was passed over; training on from there repeats the steps between. No
// state in dir is fs.ErrNotExist. LoadState changes nothing on the disk, so it
// may read beside a run that saves.
func LoadState(dir string) (s *State, path string, err error) {
	if err := wantDir(dir); err != nil {
		return nil, "", err
	}
	if _, err := os.Lstat(filepath.Join(dir, trainerFile)); err == nil {
		if s, err = readState(dir); err != nil {
			return nil, "", err
		}
		return s, dir, nil
	}
	s, path, bad, err := newest(dir, readState)
	if err != nil {
		return nil, path, err
	}
	s.Damaged = bad
	return s, path, nil
}

// newest reads the newest of the states in dir, or an older one if later ones
// are damaged; bad says how.
func newest[T any](dir string, read func(path string) (T, error)) (v T, path string, bad []error, err error) {
	for range 10 { // a run that saves may remove what is being read
		var again bool
		v, path, again, bad, err = readNewest(dir, read)
		if !again {
			break
		}
	}
	return v, path, bad, err
}

func readNewest[T any](dir string, read func(path string) (T, error)) (v T, path string, again bool, bad []error, err error) {
	there, err := states(dir)
	if err != nil {
		return v, "", false, nil, err
	}
	if len(there) == 0 { // or one was listed and gone before it was looked at
		return v, "", true, nil, fmt.Errorf("%s: no training state (%s of %s or of a %s<step> in it): %w",
			dir, trainerFile, dir, statePrefix, fs.ErrNotExist)
	}
	var none T
	for _, c := range there {
		path := filepath.Join(dir, c.name)
		before, gone := os.Lstat(path)
		if gone != nil {
			return none, "", true, nil, gone
		}
		v, err := read(path)
		if err == nil {
			return v, path, false, bad, nil
		}
		// Another of the same step may have its name by now.
		if now, gone := os.Lstat(path); gone != nil || !os.SameFile(before, now) || errors.Is(err, ErrChanged) {
			return none, "", true, nil, err
		}
		bad = append(bad, err)
		if !damaged(err) {
			break
		}
	}
	return none, "", false, nil, errors.Join(bad...)
}

// verify checks every file of a state against its trainer.json.
func verify(path string) (*trainer, error) {
	t, err := readTrainer(path)
	if err != nil {
		return nil, err
	}
	for _, name := range t.names() {
		s, err := openVerified(path, name, t)
		if err != nil {
			return nil, err
		}
		if err := s.close(nil); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func readTrainer(path string) (*trainer, error) {
	file := filepath.Join(path, trainerFile)
	b, err := readSmall(file)
	if err != nil {
		return nil, err
	}
	t, err := parseTrainer(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return t, nil
}

// openVerified opens a file of the state in path and compares its size and
// its content with what t says.
func openVerified(path, name string, t *trainer) (*source, error) {
	s, err := open(filepath.Join(path, name))
	if err != nil {
		return nil, err
	}
	if err := checkDigest(s, t.files[name]); err != nil {
		return nil, s.close(err)
	}
	return s, nil
}

func checkDigest(s *source, want digest) error {
	switch size := s.info.Size(); {
	case size < want.size:
		return fmt.Errorf("%w: it has %d bytes, want %d", ErrTruncated, size, want.size)
	case size > want.size:
		return fmt.Errorf("%w: it has %d bytes, want %d", ErrChecksum, size, want.size)
	}
	w := newDigestWriter(io.Discard)
	if _, err := io.CopyBuffer(w, io.NewSectionReader(s, 0, want.size), make([]byte, 256<<10)); err != nil {
		return err
	}
	if got := w.digest(); got != want {
		return fmt.Errorf("%w: its SHA-256 is %s, want %s", ErrChecksum, got.sha256, want.sha256)
	}
	return nil
}

// readState reads the state in path. If another one takes its place meanwhile,
// the error is ErrChanged.
func readState(path string) (*State, error) {
	vouches, err := open(filepath.Join(path, trainerFile))
	if err != nil {
		return nil, err
	}
	s, err := readStateFiles(path)
	if errors.Is(vouches.close(nil), ErrChanged) {
		return nil, fmt.Errorf("%s: %w: another state took its place", path, ErrChanged)
	}
	return s, err
}

// readStateFiles allocates memory for the model when all files have proved to
// be those that were written.
func readStateFiles(path string) (*State, error) {
	t, err := readTrainer(path)
	if err != nil {
		return nil, err
	}
	sources := map[string]*source{}
	defer func() {
		for _, s := range sources {
			s.File.Close() // a second time where all went well, which does nothing
		}
	}()
	for _, name := range t.names() {
		if sources[name], err = openVerified(path, name, t); err != nil {
			delete(sources, name)
			return nil, err
		}
	}

	config := sources[configFile]
	var c chainrule.Config
	b, err := config.readAll()
	if err == nil {
		c, err = parseConfig(b)
	}
	if err := config.close(err); err != nil {
		return nil, err
	}

	s := &State{Step: t.step, Seed: t.seed, Position: t.position, Hyper: t.hyper}
	// They close what is in sources, too.
	moments, err := weightsOf(sources[optimizerFile])
	if err != nil {
		return nil, err
	}
	if err := checkTensors(moments, c, firstMoment, secndMoment); err != nil {
		return nil, moments.close(err)
	}
	weights, err := weightsOf(sources[weightsFile])
	if err != nil {
		return nil, err
	}
	s.Model, err = weights.readModel(c, nil)
	if err := weights.close(err); err != nil {
		return nil, err
	}
	s.Optimizer, err = readOptimizer(moments, c)
	if err := moments.close(err); err != nil {
		return nil, err
	}
	s.Optimizer.Step = t.optimizerStep
	if sources[averageFile] != nil {
		average, err := weightsOf(sources[averageFile])
		if err != nil {
			return nil, err
		}
		m, err := average.readModel(c, nil)
		if err := average.close(err); err != nil {
			return nil, err
		}
		s.Average = m.Params
	}
	return s, nil
}

func readOptimizer(w *weights, c chainrule.Config) (*chainrule.AdamState, error) {
	a, err := chainrule.NewAdamState(c)
	if err != nil {
		return nil, err
	}
	for _, moment := range []struct {
		prefix string
		data   []float32
	}{{firstMoment, a.M}, {secndMoment, a.V}} {
		p, err := chainrule.ParamsOf(c, moment.data)
		if err != nil {
			return nil, err
		}
		if err := readTensors(w, moment.prefix, c, p); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// trainer is the content of trainer.json.
type trainer struct {
	step, optimizerStep int
	seed                uint64
	position            int64
	hyper               json.RawMessage
	files               map[string]digest
}

// names lists the files that t vouches for.
func (t *trainer) names() []string {
	if _, ok := t.files[averageFile]; ok {
		return stateFiles
	}
	return stateFiles[:len(stateFiles)-1]
}

const (
	trainerFormat  = "chainrule training state"
	trainerVersion = 1

	// The last line but one of trainer.json holds its checksum between these.
	sumBefore = `  "sha256": "`
	sumAfter  = "\"\n}\n"
	sumDigits = 2 * sha256.Size
)

// marshal writes trainer.json. It is put together by hand, so that the
// hyperparameters stay as they are and the checksum has a known place.
func (t *trainer) marshal() []byte {
	hyper := []byte(t.hyper)
	if len(hyper) == 0 {
		hyper = []byte("null")
	}
	b := fmt.Appendf(nil, `{
  "format": %q,
  "version": %d,
  "step": %d,
  "optimizer_step": %d,
  "seed": %d,
  "position": %d,
  "hyperparameters": %s,
  "files": {`, trainerFormat, trainerVersion, t.step, t.optimizerStep, t.seed, t.position, hyper)
	for i, name := range t.names() {
		if i > 0 {
			b = append(b, ',')
		}
		d := t.files[name]
		b = fmt.Appendf(b, "\n    %q: {\"size\": %d, \"sha256\": %q}", name, d.size, d.sha256)
	}
	b = append(b, "\n  },\n"+sumBefore...)
	at := len(b)
	b = append(b, strings.Repeat("0", sumDigits)+sumAfter...)
	sum := sha256.Sum256(b)
	hex.Encode(b[at:], sum[:])
	return b
}

// parseTrainer checks the checksum of a trainer.json and reads it.
func parseTrainer(b []byte) (*trainer, error) {
	end := len(b) - len(sumAfter)
	at := end - sumDigits
	if at < len(sumBefore) || string(b[end:]) != sumAfter || string(b[at-len(sumBefore):at]) != sumBefore {
		// Whether bytes are missing or changed at the end cannot be told.
		err := fmt.Errorf("%w (%w): it does not end with its checksum", ErrTruncated, ErrChecksum)
		if is := explain(b, err); is != err {
			err = fmt.Errorf("%w; %w", err, is)
		}
		return nil, err
	}
	blank := bytes.Clone(b)
	copy(blank[at:end], strings.Repeat("0", sumDigits))
	if sum := sha256.Sum256(blank); hex.EncodeToString(sum[:]) != string(b[at:end]) {
		return nil, fmt.Errorf("%w: its SHA-256 is %x, it says %s", ErrChecksum, sum, quote(string(b[at:end])))
	}
	return parseTrainerFields(b)
}

func parseTrainerFields(b []byte) (*trainer, error) {
	if len(b) > maxSmall {
		return nil, fmt.Errorf("%w: %s has %d bytes, want at most %d", ErrConfig, trainerFile, len(b), maxSmall)
	}
	o, err := parseObject(b)
	if err != nil {
		return nil, err
	}
	if f := o.string("format", ""); f != trainerFormat {
		o.fail("format", "is %s, want %q", quote(f), trainerFormat)
	}
	if v := o.integer("version", 0); v != trainerVersion {
		o.fail("version", "is %d, want %d", v, trainerVersion)
	}
	o.only("format", "version", "step", "optimizer_step", "seed", "position", "hyperparameters", "files", "sha256")
	t := &trainer{
		step: int(o.count("step")), optimizerStep: int(o.count("optimizer_step")), seed: o.unsigned("seed"),
		position: o.count("position"), files: map[string]digest{},
	}
	if o.has("hyperparameters") {
		t.hyper = bytes.Clone(o.members["hyperparameters"])
	}
	files := o.object("files")
	if files == nil {
		o.fail("files", "is missing")
		return nil, o.err
	}
	files.only(stateFiles...)
	for _, name := range stateFiles {
		if name == averageFile && !files.has(name) {
			continue
		}
		f := files.object(name)
		if f == nil {
			files.fail(name, "is missing")
			break
		}
		f.only("size", "sha256")
		t.files[name] = digest{f.count("size"), f.string("sha256", "")}
		if f.err != nil {
			return nil, f.err
		}
	}
	if err := cmp.Or(o.err, files.err); err != nil {
		return nil, err
	}
	return t, nil
}

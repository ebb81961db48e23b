package data

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// chatML is a tokenizer that has the marks of ChatML and words that begin with
// a space.
func chatML(t testing.TB) *tokenizer.BPE {
	tok, err := tokenizer.Train(slices.Values([]string{strings.Repeat("user system assistant What is it? It is a test. \n", 20)}),
		tokenizer.TrainOptions{VocabSize: 400, Special: []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}})
	require.NoError(t, err)
	return tok
}

const endOfText = 0

// encodeChatML does what a template with ChatML does.
func encodeChatML(tok tokenizer.Model) func([]Message) ([]int32, []bool, error) {
	return func(messages []Message) (tokens []int32, learned []bool, err error) {
		add := func(text string, learn bool) {
			ids := tok.EncodeMarkup(text)
			tokens, learned = append(tokens, ids...), append(learned, slices.Repeat([]bool{learn}, len(ids))...)
		}
		for _, m := range messages {
			add("<|im_start|>"+m.Role+"\n", false)
			add(m.Content+"<|im_end|>", m.Role == "assistant")
			add("\n", false)
		}
		return tokens, learned, nil
	}
}

// show writes a sequence with what is learned in brackets.
func show(tok tokenizer.Tokenizer, e Example) string {
	s := tok.Decode(e.Tokens[:1])
	for i, target := range e.Targets {
		if target >= 0 {
			s += "[" + tok.Decode([]int32{target}) + "]"
		} else if i+1 < len(e.Tokens) {
			s += tok.Decode(e.Tokens[i+1 : i+2])
		}
	}
	return s
}

func TestWhatIsLearned(t *testing.T) {
	tok := chatML(t)
	e := &Encoder{Tokenizer: tok, End: endOfText, Chat: encodeChatML(tok), MaxLen: 1000}
	for name, c := range map[string]struct {
		record Record
		want   string
	}{
		"text":                     {Record{Text: "It is a test."}, "It[ is][ a][ test][.][<|endoftext|>]"},
		"a text that ends itself":  {Record{Text: "It is<|endoftext|>"}, "It[ is][<|endoftext|>]"},
		"completion":               {Record{Prompt: "What is it?", Completion: " It is"}, "What is it?[ It][ is][<|endoftext|>]"},
		"a token across the start": {Record{Prompt: "What is ", Completion: "it?"}, "What is[ it][?][<|endoftext|>]"},
		"no prompt":                {Record{Completion: "It is"}, "It[ is][<|endoftext|>]"},
		"messages": {Record{Messages: []Message{{"system", ""}, {"user", "What is it?"}, {"assistant", "It is"}, {"user", "a"}, {"assistant", "test"}, {"user", "it?"}}},
			"<|im_start|>system\n<|im_end|>\n<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n[It][ is][<|im_end|>]\n" +
				"<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[test][<|im_end|>]"},
		"the same words twice": {Record{Messages: []Message{{"user", "It is"}, {"assistant", "It is"}}},
			"<|im_start|>user\nIt is<|im_end|>\n<|im_start|>assistant\n[It][ is][<|im_end|>]"},
		"half a character": {Record{Prompt: "é", Completion: "ü"}, "\xc3\xa9[\xc3][\xbc][<|endoftext|>]"},
	} {
		t.Run(name, func(t *testing.T) {
			c.record.Line = 7
			got, err := e.Encode(c.record)
			require.NoError(t, err)
			require.Len(t, got, 1)
			require.Equal(t, c.want, show(tok, got[0]))
			require.Equal(t, 7, got[0].Line)
			require.False(t, got[0].Cut)
			for i, target := range got[0].Targets[:len(got[0].Targets)-1] {
				if target >= 0 {
					require.Equal(t, got[0].Tokens[i+1], target)
				}
			}
		})
	}
}

// Of a tokenizer that normalizes, tokens of no bytes complete a character; of
// one that puts a space at the start, they begin a text.
func TestTokensOfNoBytes(t *testing.T) {
	read := func(name string) tokenizer.Model {
		f, err := os.Open("../tokenizer/testdata/golden/" + name)
		require.NoError(t, err)
		defer f.Close()
		info, err := f.Stat()
		require.NoError(t, err)
		tok, err := tokenizer.ReadJSON(f, info.Size())
		require.NoError(t, err)
		return tok
	}
	learned := func(tok tokenizer.Model, r Record) (text string, flags []bool) {
		e := &Encoder{Tokenizer: tok, End: -1, MaxLen: 1000}
		got, err := e.Encode(r)
		require.NoError(t, err)
		for i, target := range got[0].Targets {
			flags = append(flags, target >= 0)
			require.True(t, target < 0 || i+1 == len(got[0].Tokens) || target == got[0].Tokens[i+1])
		}
		return tok.Decode(got[0].Tokens), flags
	}
	qwen := read("qwen2.json")
	// é of two characters is normalized to one, of two tokens: the second is of no bytes.
	_, flags := learned(qwen, Record{Prompt: "ae\u0301", Completion: "b"})
	require.Equal(t, []bool{false, false, true}, flags)
	_, flags = learned(qwen, Record{Prompt: "a", Completion: "e\u0301"})
	require.Equal(t, []bool{true, true}, flags)

	// <s>a</s> é: "▁" and the bytes of é, which that vocabulary has not.
	llama := read("llama2.json")
	ids, ends := llama.EncodeOffsets("a</s>é")
	require.Equal(t, "</s>", llama.Token(ids[len(ids)-4]))
	require.Equal(t, []int{5, 5, 6, 7}, ends[len(ends)-4:], "the ▁ behind </s> is of no bytes")
	_, flags = learned(llama, Record{Prompt: "a</s>", Completion: "é"})
	require.Equal(t, []bool{true, true, true}, flags[len(flags)-3:], "▁ is what the model writes first")
	require.NotContains(t, flags[:len(flags)-3], true)
	_, flags = learned(llama, Record{Prompt: "a</s>é", Completion: "é"})
	require.Equal(t, []bool{false, false, false, false, true, true}, flags[len(flags)-6:])
	_, flags = learned(llama, Record{Prompt: "a", Completion: "</s>é"})
	require.Equal(t, []bool{true, true, true, true}, flags[len(flags)-4:])
}

func TestTheTemplateOfTheTokenizer(t *testing.T) {
	tok := chatML(t)
	require.NoError(t, tok.SetTemplate([]int32{1}, []int32{2}))
	e := &Encoder{Tokenizer: tok, End: endOfText, Chat: encodeChatML(tok), MaxLen: 1000}
	encode := func(r Record) string {
		got, err := e.Encode(r)
		require.NoError(t, err)
		return show(tok, got[0])
	}
	require.Equal(t, "<|im_start|>[It][<|im_end|>][<|endoftext|>]", encode(Record{Text: "It"}))
	require.Equal(t, "<|im_start|>It[ is][<|im_end|>][<|endoftext|>]", encode(Record{Prompt: "It", Completion: " is"}))
	require.Equal(t, "<|im_start|>assistant\n[It][<|im_end|>]", encode(Record{Messages: []Message{{"assistant", "It"}}}))
	e.End = 2
	require.Equal(t, "<|im_start|>[It][<|im_end|>]", encode(Record{Text: "It"}))
}

func TestLongExamples(t *testing.T) {
	tok := chatML(t)
	e := &Encoder{Tokenizer: tok, End: endOfText, Chat: encodeChatML(tok)}
	encode := func(maxLen int, r Record) (texts []string, cut []bool) {
		e.MaxLen = maxLen
		got, err := e.Encode(r)
		require.NoError(t, err)
		for _, x := range got {
			require.LessOrEqual(t, len(x.Tokens), maxLen)
			require.Len(t, x.Targets, len(x.Tokens))
			require.GreaterOrEqual(t, x.Targets[len(x.Targets)-1], int32(0))
			texts, cut = append(texts, show(tok, x)), append(cut, x.Cut)
		}
		return texts, cut
	}
	text := Record{Text: "It is a test."} // 5 tokens and the end
	for maxLen, want := range map[int][]string{
		5: {"It[ is][ a][ test][.][<|endoftext|>]"},
		4: {"It[ is][ a][ test][.]", ".[<|endoftext|>]"},
		2: {"It[ is][ a]", " a[ test][.]", ".[<|endoftext|>]"},
		1: {"It[ is]", " is[ a]", " a[ test]", " test[.]", ".[<|endoftext|>]"},
	} {
		got, cut := encode(maxLen, text)
		require.Equal(t, want, got)
		require.NotContains(t, cut, true)
	}

	completion := Record{Prompt: "What is it?", Completion: " It is"} // 5 tokens, 2 and the end
	for maxLen, want := range map[int]string{
		7: "What is it?[ It][ is][<|endoftext|>]",
		6: "What is it?[ It][ is]",
		5: "What is it?[ It]",
	} {
		got, cut := encode(maxLen, completion)
		require.Equal(t, []string{want}, got)
		require.Equal(t, []bool{maxLen < 7}, cut)
	}
	got, _ := encode(4, completion)
	require.Empty(t, got, "nothing to learn is left")

	two := Record{Messages: []Message{{"assistant", "It"}, {"user", "What is it?"}, {"assistant", "It"}}}
	got, cut := encode(8, two)
	require.Equal(t, []string{"<|im_start|>assistant\n[It][<|im_end|>]"}, got, "what is read and not learned at the end is left out")
	require.Equal(t, []bool{true}, cut)
}

func TestRecordsThatBecomeNoExample(t *testing.T) {
	e := &Encoder{Tokenizer: chatML(t), End: -1, MaxLen: 10}
	_, err := e.Encode(Record{Line: 3, Text: "t"})
	require.EqualError(t, err, "data: line 3 becomes 1 tokens, and none to learn follows another")
	answer := Record{Line: 3, Messages: []Message{{"assistant", "a"}}}
	_, err = e.Encode(answer)
	require.EqualError(t, err, "data: line 3: it has messages, and this model has no chat template")
	e.Chat = func([]Message) ([]int32, []bool, error) { return nil, nil, errors.New("roles must alternate") }
	_, err = e.Encode(answer)
	require.EqualError(t, err, "data: line 3: roles must alternate")
	e.Chat = func([]Message) ([]int32, []bool, error) { return []int32{1, 2}, []bool{true, false}, nil }
	_, err = e.Encode(answer)
	require.EqualError(t, err, "data: line 3 becomes 2 tokens, and none to learn follows another")
	e.Chat = func([]Message) ([]int32, []bool, error) { return []int32{1, 2}, nil, nil }
	require.PanicsWithValue(t, "data: Encoder.Chat: learned is not as long as tokens", func() { e.Encode(answer) })
	require.PanicsWithValue(t, "data: Encoder.Encode: MaxLen is less than 1", func() { new(Encoder).Encode(Record{}) })
}

func TestSplitExamplesHoldsOutLines(t *testing.T) {
	var all []Example
	for line := range 100 {
		for part := range line%3 + 1 {
			all = append(all, Example{Line: line + 1, Tokens: []int32{int32(part)}})
		}
	}
	train, val := SplitExamples(all, 0.2, 1)
	lines := func(list []Example) (lines []int) {
		for _, e := range list {
			lines = append(lines, e.Line)
		}
		require.True(t, slices.IsSorted(lines))
		return slices.Compact(lines)
	}
	require.Len(t, lines(val), 20)
	require.Len(t, lines(train), 80)
	require.Len(t, append(train, val...), len(all))
	both := append(lines(val), lines(train)...)
	slices.Sort(both)
	require.Len(t, slices.Compact(both), 100)

	again, _ := SplitExamples(all, 0.2, 1)
	require.Equal(t, lines(train), lines(again))
	other, _ := SplitExamples(all, 0.2, 2)
	require.NotEqual(t, lines(train), lines(other))
	train, val = SplitExamples(all, 0, 1)
	require.Equal(t, all, train)
	require.Empty(t, val)
	train, val = SplitExamples(nil, 0.5, 1)
	require.Empty(t, append(train, val...))
	require.Panics(t, func() { SplitExamples(all, 1, 1) })
}

package data

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// readAll returns the records before the first error.
func readAll(path string) (records []Record, err error) {
	for r, err := range ReadJSONL(path) {
		if err != nil {
			return records, err
		}
		records = append(records, r)
	}
	return records, nil
}

func TestReadJSONL(t *testing.T) {
	chat := `{"messages":[{"role":"system","content":""},{"role":"user","content":"Hi"},{"content":"Ho","role":"assistant"}]}`
	hi := []Message{{"system", ""}, {"user", "Hi"}, {"assistant", "Ho"}}
	for name, c := range map[string]struct {
		file string
		want []Record
	}{
		"text":             {`{"text":"a"}`, []Record{{Line: 1, Text: "a"}}},
		"completion":       {`{"completion":"b","prompt":"a"}`, []Record{{Line: 1, Prompt: "a", Completion: "b"}}},
		"an empty prompt":  {`{"completion":"b","prompt":""}`, []Record{{Line: 1, Completion: "b"}}},
		"messages":         {chat, []Record{{Line: 1, Messages: hi}}},
		"mixed":            {`{"text":"a"}` + "\n" + chat + "\n", []Record{{Line: 1, Text: "a"}, {Line: 2, Messages: hi}}},
		"blank lines":      {"\n \t\r\n" + `{"text":"a"}` + "\n\n\r\n" + `{"text":"b"}` + "\n\n", []Record{{Line: 3, Text: "a"}, {Line: 6, Text: "b"}}},
		"CRLF":             {`{"text":"a\r\nb"}` + "\r\n" + `{"text":"b"}` + "\r\n", []Record{{Line: 1, Text: "a\r\nb"}, {Line: 2, Text: "b"}}},
		"BOM":              {"\ufeff" + `{"text":"a"}`, []Record{{Line: 1, Text: "a"}}},
		"BOM and no more":  {"\ufeff\n" + `{"text":"a"}`, []Record{{Line: 2, Text: "a"}}},
		"other fields":     {`{"id":[1,{"a":"b"}],"text":"a","source":null,"Text":"b"}`, []Record{{Line: 1, Text: "a"}}},
		"null is absent":   {`{"text":null,"tools":null,"prompt":"a","completion":"b","messages":null}`, []Record{{Line: 1, Prompt: "a", Completion: "b"}}},
		"null in messages": {`{"messages":[{"role":"assistant","content":"a","tool_calls":null}]}`, []Record{{Line: 1, Messages: []Message{{"assistant", "a"}}}}},
		"escapes":          {`{"t\u0065xt":"\u00e9\ud83d\ude00\n\u0000\/"}`, []Record{{Line: 1, Text: "é😀\n\x00/"}}},
		"white space":      {" {\t\"text\" : \"a\" } \r\n", []Record{{Line: 1, Text: "a"}}},
		"U+2028":           {`{"text":"a` + "\u2028\u0085" + `b"}`, []Record{{Line: 1, Text: "a\u2028\u0085b"}}},
		"a long line":      {`{"text":"` + strings.Repeat("ab ", 100_000) + `"}` + "\n" + `{"text":"b"}`, []Record{{Line: 1, Text: strings.Repeat("ab ", 100_000)}, {Line: 2, Text: "b"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readAll(write(t, filepath.Join(t.TempDir(), "x.jsonl"), c.file))
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestALineThatIsNoRecordIsNamed(t *testing.T) {
	const good = `{"text":"a"}` + "\n" // 13 bytes
	assistant := `{"role":"assistant","content":"a"}`
	for _, c := range []struct {
		line string
		at   int // in it
		want string
	}{
		{`{"text":1}`, 8, "text is a number, want a string"},
		{`{"text":["a"]}`, 8, "text is an array, want a string"},
		{`{"text" : {}}`, 10, "text is an object, want a string"},
		{`{"prompt":"a","completion":true}`, 27, "completion is a truth value, want a string"},
		{`{"text":""}`, 0, "text is empty, want something to learn from"},
		{`{"prompt":"a","completion":""}`, 0, "completion is empty"},
		{`{"prompt":"a"}`, 0, `an object of prompt, want one form: {"text": …}, {"prompt"`},
		{`{"completion":"a"}`, 0, `an object of completion, want one form`},
		{`{"text":"a","prompt":"a","completion":"b"}`, 0, `an object of completion, prompt, text, want one form`},
		{`{"Text":"a","conversations":[{"from":"human"}]}`, 0, `an object of "Text", "conversations", want {"text": …}`},
		{`{}`, 0, "an empty object, want"},
		{`{"text":"a","text":"a"}`, 12, `"text" is there already, want every field once`},
		{`{"text":"a","x":{"y":1,"y":2}}`, 23, `"y" is there already, want every field once`},
		{`{"text":"a\ud800b"}`, 10, `not JSON: invalid surrogate pair`},
		{`{"text":"\udc00"}`, 9, `not JSON: invalid surrogate pair`},
		{`{"text":"a` + "\xff" + `"}`, 10, "not JSON: invalid UTF-8"},
		{`{"x` + "\xff" + `":1,"text":"a"}`, 3, "not JSON: invalid UTF-8"},
		{`{"text":"a` + "\x01" + `"}`, 10, `not JSON: invalid character '\x01'`},
		{`{"text":"a\x"}`, 10, "not JSON: invalid escape sequence"},
		{`{"text":"a"`, 11, "the line ends within the object, want all of it in one line"},
		{`{`, 1, "the line ends within the object"},
		{`{"text":"a`, 10, "the line ends within the object"},
		{`{"messages":[{"role":"user"`, 27, "the line ends within the object"},
		{`{"text":"a",}`, 11, "not JSON: invalid character ','"},
		{`{"text":"a"} {"text":"b"}`, 13, "something behind the object, want the end of the line"},
		{`{"text":"a"}]`, 12, "something behind the object"},
		{`[{"text":"a"}]`, 0, "a JSON array, want one object in each line (jq"},
		{`"a"`, 0, "the line is a string, want an object"},
		{`null`, 0, "the line is null, want an object"},
		{`text`, 1, "not JSON: invalid character 'e'"},
		{"\ufeff" + `{"text":"a"}`, 0, `not JSON: invalid character '\ufeff'`},
		{"\xff\xfe{\x00", 0, "UTF-16, want UTF-8"},
		{`{"text":"a","tools":[]}`, 12, "tools are not supported"},
		{`{"functions":[],"text":"a"}`, 1, "functions are not supported"},
		{`{"messages":"a"}`, 12, "messages is a string, want an array of objects"},
		{`{"messages":["a"]}`, 13, "messages[0] is a string, want an object"},
		{`{"messages":[]}`, 0, "messages has none of the role assistant, want one or more to learn from"},
		{`{"messages":[{"role":"user","content":"a"}]}`, 0, "messages has none of the role assistant"},
		{`{"messages":[` + assistant + `,{"content":"a"}]}`, 48, "messages[1] has no role, want one of system, user, assistant, tool"},
		{`{"messages":[{"role":"asistant","content":"a"}]}`, 21, `messages[0].role is "asistant", want one of system, user, assistant, tool`},
		{`{"messages":[{"role":null,"content":"a"}]}`, 21, `messages[0].role is null, want a string`},
		{`{"messages":[{"role":"user","content":null}]}`, 38, `messages[0].content is null, want a string`},
		{`{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]}`, 38, `messages[0].content is an array, want a string`},
		{`{"messages":[{"role":"assistant","content":""}]}`, 13, `messages[0] is of the assistant and has no content, want something to learn from`},
		{`{"messages":[{"role":"assistant"}]}`, 13, `messages[0] is of the assistant and has no content`},
		{`{"messages":[{"role":"assistant","content":"a","weight":0}]}`, 47, `messages[0] has "weight", want role and content`},
		{`{"messages":[{"from":"human","value":"a"}]}`, 14, `messages[0] has "from", want role and content`},
		{`{"messages":[{"role":"user","role":"user"}]}`, 28, `"role" is there already, want every field once`},
		{`{"text":` + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000) + "}", 8, "text is an array"},
		{`{"x":` + strings.Repeat("[", 20_000), 10004, "not JSON: exceeded max depth"},
	} {
		t.Run(c.line[:min(len(c.line), 60)], func(t *testing.T) {
			path := write(t, filepath.Join(t.TempDir(), "x.jsonl"), good+"\n"+c.line+"\n"+good)
			got, err := readAll(path)
			require.Equal(t, []Record{{Line: 1, Text: "a"}}, got)
			var bad *LineError
			require.ErrorAs(t, err, &bad)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, LineError{path, 3, int64(len(good) + 1 + c.at), bad.Problem}, *bad)
			require.ErrorContains(t, err, fmt.Sprintf("data: %s:3: at byte %d: ", path, bad.Offset))
			require.NotContains(t, err.Error(), "jsontext")
			require.Less(t, len(err.Error()), 400+len(path))
		})
	}
}

func TestOffsetsCountTheByteOrderMark(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "x"), "\ufeff"+`{"text":1}`)
	_, err := readAll(path)
	require.Equal(t, &LineError{path, 1, 3 + 8, "text is a number, want a string"}, err)
}

func TestAFileThatHasNoRecordsIsRefused(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(dir, "missing"): "no such file",
		dir:                           "is a directory, not a file",
		write(t, filepath.Join(dir, "empty"), ""):     `empty has no record: want lines of {"text"`,
		write(t, filepath.Join(dir, "blank"), " \n"):  "blank has no record",
		write(t, filepath.Join(dir, "b"), "\ufeff\n"): "b has no record",
	} {
		got, err := readAll(path)
		require.Empty(t, got)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "data: ")
		require.ErrorContains(t, err, path)
	}
}

// A line that never ends is not read into memory.
func TestALineThatIsTooLongIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sparse")
	require.NoError(t, os.WriteFile(path, []byte("{\"text\":\"a\"}\n"), 0o666))
	require.NoError(t, os.Truncate(path, 3*MaxLine))
	got, err := readAll(path)
	require.Len(t, got, 1)
	require.Equal(t, &LineError{path, 2, 13 + MaxLine, "the line goes on: want at most 67108864 bytes"}, err)
}

func TestReadJSONLStopsWhereTheCallerDoes(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "x"), `{"text":"a"}`+"\n[")
	for r, err := range ReadJSONL(path) {
		require.NoError(t, err)
		require.Equal(t, "a", r.Text)
		break
	}
}

func TestAFileThatShrinksIsAnError(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "x"), strings.Repeat(`{"text":"a"}`+"\n", 100_000))
	var last error
	for _, err := range ReadJSONL(path) {
		if last = err; err == nil {
			require.NoError(t, os.Truncate(path, 13*10_000))
		}
	}
	require.ErrorContains(t, last, "x: the file shrank while it was read, from 1300000 bytes to 130000")
}

// What is read is what encoding/json reads, which lets more through.
func FuzzParseRecord(f *testing.F) {
	for _, s := range []string{
		`{"text":"a"}`, `{"prompt":"","completion":"b","x":[{}]}`, `{"text":null,"messages":[{"role":"assistant","content":"é\ud83d\ude00"}]}`,
		`{"text":"\ud800"}`, `{"messages":[{"role":"user","content":[]}]}`, `[`, "\xff\xfe", `{"text":"a"}x`, `{"a":{"a":1,"a":2}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseRecord(line)
		if err != nil {
			bad, ok := err.(*LineError)
			require.True(t, ok, "%v", err)
			require.True(t, bad.Offset >= 0 && bad.Offset <= int64(len(line)), "%v", bad)
			require.Zero(t, r)
			return
		}
		var fields map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(line, &fields))
		require.True(t, r.Text != "" || r.Completion != "" || r.Messages != nil)
		read := func(name string, to any) {
			if fields[name] != nil {
				require.NoError(t, json.Unmarshal(fields[name], to))
			}
		}
		want := Record{}
		read("text", &want.Text)
		read("prompt", &want.Prompt)
		read("completion", &want.Completion)
		var messages []map[string]*string // Message would take any case of a key
		read("messages", &messages)
		for _, m := range messages {
			one := Message{Role: *m["role"]}
			if m["content"] != nil {
				one.Content = *m["content"]
			}
			want.Messages = append(want.Messages, one)
		}
		require.Equal(t, want, r)
	})
}

package data

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxLine is the longest line that ReadJSONL reads, in bytes.
const MaxLine = 64 << 20

// Record is a line of a JSONL file for fine-tuning. It has one of three forms,
// of which the others' fields are zero:
//
//	{"text": "…"}                      a text to write
//	{"prompt": "…", "completion": "…"} how a text goes on
//	{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
//
// What is to be learned from, the text, the completion and the content of the
// assistant's messages, of which there is one or more, is never empty.
type Record struct {
	Line               int // of the file, counted from 1
	Text               string
	Prompt, Completion string
	Messages           []Message
}

// Message is one of a conversation.
type Message struct {
	Role    string // one of Roles
	Content string
}

// Roles are those that a Message may have.
var Roles = []string{"system", "user", "assistant", "tool"}

// LineError says what is wrong with a line of a JSONL file.
type LineError struct {
	Path    string
	Line    int    // counted from 1
	Offset  int64  // byte of the file at which it was found
	Problem string // what was found and what was expected
}

// Error says what is wrong, in which line and at which byte of the file.
func (e *LineError) Error() string {
	return fmt.Sprintf("data: %s:%d: at byte %d: %s", e.Path, e.Line, e.Offset, e.Problem)
}

// ReadJSONL yields the records of a JSONL file, in which lines of different
// forms may stand together.
//
// The file is UTF-8, with or without a byte order mark; lines end with LF or
// CRLF, and blank ones are passed over. A field that is null counts as absent,
// and fields that Record has not are ignored, except those that would change
// what a conversation is (tools, functions): they are an error. So is anything
// else than one JSON object in a line, bytes that are not UTF-8, a surrogate by
// itself, a field that is there twice or is not a string, a role that is not
// one of Roles, a message with another field, a line that has no form or more
// than one, nothing to learn from in it, or more than MaxLine bytes; and a file
// with no record.
//
// An error ends the sequence, as its last pair. It is a *LineError, unless the
// file cannot be read or has no record.
func ReadJSONL(path string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		f, size, err := openRegular(path)
		if err != nil {
			yield(Record{}, err)
			return
		}
		defer f.Close()
		l := lines{r: bufio.NewReaderSize(io.NewSectionReader(f, 0, size), 64<<10)}
		records := 0
		for {
			line, err := l.next()
			if err == io.EOF {
				break
			}
			var r Record
			if err == nil {
				if len(bytes.TrimLeft(line, " \t\r\n")) == 0 {
					continue
				}
				r, err = parseRecord(bytes.TrimRight(line, "\r\n"))
				r.Line = l.n
			}
			var bad *LineError
			if errors.As(err, &bad) {
				bad.Path, bad.Line, bad.Offset = path, l.n, l.at+bad.Offset
			} else if err != nil {
				err = fmt.Errorf("data: %s:%d: %w", path, l.n, err)
			}
			if err != nil {
				yield(Record{}, err)
				return
			}
			records++
			if !yield(r, nil) {
				return
			}
		}
		if l.end != size {
			yield(Record{}, fmt.Errorf("data: %s: the file shrank while it was read, from %d bytes to %d", path, size, l.end))
		} else if records == 0 {
			yield(Record{}, fmt.Errorf("data: %s has no record: want lines of %s", path, forms))
		}
	}
}

const forms = `{"text": …}, {"prompt": …, "completion": …} or {"messages": [{"role": …, "content": …}, …]}`

// lines cuts a file into lines.
type lines struct {
	r       *bufio.Reader
	n       int   // of the last line
	at, end int64 // where it begins, and where the next one does
	long    []byte
}

// next returns a line with its end, valid until the next one.
func (l *lines) next() ([]byte, error) {
	l.n++
	l.at = l.end
	l.long = l.long[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		l.end += int64(len(part))
		if len(l.long)+len(part) > MaxLine {
			return nil, &LineError{Offset: MaxLine, Problem: fmt.Sprintf("the line goes on: want at most %d bytes", MaxLine)}
		}
		whole := len(l.long) == 0
		if !whole || err == bufio.ErrBufferFull {
			l.long = append(l.long, part...)
			part = l.long
		}
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF && len(part) > 0:
			err = nil // the last line need not end
		case err != nil:
			return nil, err
		}
		if bom := []byte("\xef\xbb\xbf"); l.n == 1 && bytes.HasPrefix(part, bom) {
			l.at += int64(len(bom))
			part = part[len(bom):]
		}
		return part, nil
	}
}

// record reads the JSON of a line.
type record struct {
	*jsontext.Decoder
	line []byte
}

// parseRecord returns the record of a line. The error is a *LineError with the
// offset in the line.
func parseRecord(line []byte) (r Record, err error) {
	d := &record{jsontext.NewDecoder(bytes.NewReader(line)), line}
	if bytes.HasPrefix(line, []byte("\xff\xfe")) || bytes.HasPrefix(line, []byte("\xfe\xff")) {
		return r, d.bad(0, "UTF-16, want UTF-8")
	}
	if d.PeekKind() == jsontext.KindBeginArray {
		return r, d.bad(d.next(), "a JSON array, want one object in each line (jq -c '.[]' makes that of an array)")
	}
	var fields, found []string
	err = d.object("the line", func(name string, at int64) (err error) {
		fields = append(fields, strconv.Quote(short(name)))
		if d.PeekKind() == jsontext.KindNull {
			return d.skip()
		}
		switch name {
		case "text":
			r.Text, err = d.string(name)
		case "prompt":
			r.Prompt, err = d.string(name)
		case "completion":
			r.Completion, err = d.string(name)
		case "messages":
			r.Messages, err = d.messages()
		case "tools", "functions":
			return d.bad(at, "%s are not supported: want %s", name, forms)
		default:
			return d.skip()
		}
		found = append(found, name)
		return err
	})
	if err != nil {
		return Record{}, err
	}
	end := d.next()
	if _, err := d.ReadToken(); err != io.EOF {
		return Record{}, d.bad(end, "something behind the object, want the end of the line")
	}
	slices.Sort(found)
	switch form := strings.Join(found, ", "); form {
	case "text":
		if r.Text == "" {
			return Record{}, d.bad(0, "text is empty, want something to learn from")
		}
	case "completion, prompt":
		if r.Completion == "" {
			return Record{}, d.bad(0, "completion is empty, want something to learn from")
		}
	case "messages":
		if !slices.ContainsFunc(r.Messages, func(m Message) bool { return m.Role == "assistant" }) {
			return Record{}, d.bad(0, "messages has none of the role assistant, want one or more to learn from")
		}
	case "":
		if fields == nil {
			return Record{}, d.bad(0, "an empty object, want %s", forms)
		}
		return Record{}, d.bad(0, "an object of %s, want %s", strings.Join(fields[:min(len(fields), 8)], ", "), forms)
	default:
		return Record{}, d.bad(0, "an object of %s, want one form: %s", strings.Join(found, ", "), forms)
	}
	return r, nil
}

func (d *record) messages() ([]Message, error) {
	if err := d.want(jsontext.KindBeginArray, "messages", "an array of objects"); err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, d.syntax(err)
	}
	messages := []Message{}
	for d.PeekKind() != jsontext.KindEndArray {
		where := fmt.Sprintf("messages[%d]", len(messages))
		var m Message
		at := d.next()
		role := at
		err := d.object(where, func(name string, at int64) (err error) {
			if d.PeekKind() == jsontext.KindNull && name != "role" && name != "content" {
				return d.skip()
			}
			switch name {
			case "role":
				role = d.next()
				m.Role, err = d.string(where + ".role")
			case "content":
				m.Content, err = d.string(where + ".content")
			default:
				err = d.bad(at, "%s has %q, want role and content", where, short(name))
			}
			return err
		})
		switch {
		case err != nil:
			return nil, err
		case m.Role == "":
			return nil, d.bad(at, "%s has no role, want one of %s", where, strings.Join(Roles, ", "))
		case !slices.Contains(Roles, m.Role):
			return nil, d.bad(role, "%s.role is %q, want one of %s", where, short(m.Role), strings.Join(Roles, ", "))
		case m.Role == "assistant" && m.Content == "":
			return nil, d.bad(at, "%s is of the assistant and has no content, want something to learn from", where)
		}
		messages = append(messages, m)
	}
	_, err := d.ReadToken()
	return messages, d.syntax(err)
}

// object reads an object; value gets each name and where that is, and must read
// what follows.
func (d *record) object(what string, value func(name string, at int64) error) error {
	if err := d.want(jsontext.KindBeginObject, what, "an object"); err != nil {
		return err
	}
	if _, err := d.ReadToken(); err != nil {
		return d.syntax(err)
	}
	for d.PeekKind() != jsontext.KindEndObject {
		at := d.next()
		name, err := d.ReadToken()
		if err != nil {
			return d.syntax(err)
		}
		if err := value(name.String(), at); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return d.syntax(err)
}

func (d *record) string(what string) (string, error) {
	if err := d.want(jsontext.KindString, what, "a string"); err != nil {
		return "", err
	}
	t, err := d.ReadToken()
	if err != nil {
		return "", d.syntax(err)
	}
	return t.String(), nil
}

// want is an error if what follows is JSON of another kind.
func (d *record) want(kind jsontext.Kind, what, wanted string) error {
	k, at := d.PeekKind(), d.next()
	if k == kind {
		return nil
	}
	if err := d.skip(); err != nil {
		return err
	}
	return d.bad(at, "%s is %s, want %s", what, describe(k), wanted)
}

func (d *record) skip() error { return d.syntax(d.SkipValue()) }

// next returns the offset of the next token.
func (d *record) next() int64 {
	at := d.InputOffset()
	for at < int64(len(d.line)) && strings.IndexByte(" \t\r\n:,", d.line[at]) >= 0 {
		at++
	}
	return at
}

// syntax is the error for JSON that is none.
func (d *record) syntax(err error) error {
	if err == nil {
		return nil
	}
	var bad *jsontext.SyntacticError
	if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF {
		return d.bad(int64(len(d.line)), "the line ends within the object, want all of it in one line")
	}
	if errors.Is(err, jsontext.ErrDuplicateName) && errors.As(err, &bad) {
		return d.bad(bad.ByteOffset, "%q is there already, want every field once", short(bad.JSONPointer.LastToken()))
	}
	if errors.As(err, &bad) {
		return d.bad(bad.ByteOffset, "not JSON: %v", bad.Err)
	}
	return err
}

func (d *record) bad(at int64, format string, args ...any) error {
	return &LineError{Offset: at, Problem: fmt.Sprintf(format, args...)}
}

// short cuts what a file has to what fits into a message.
func short(s string) string {
	if len(s) <= 60 {
		return s
	}
	return strings.ToValidUTF8(s[:60], "") + "…"
}

func describe(k jsontext.Kind) string {
	switch k {
	case jsontext.KindNull:
		return "null"
	case jsontext.KindTrue, jsontext.KindFalse:
		return "a truth value"
	case jsontext.KindString:
		return "a string"
	case jsontext.KindNumber:
		return "a number"
	case jsontext.KindBeginObject:
		return "an object"
	}
	return "an array"
}

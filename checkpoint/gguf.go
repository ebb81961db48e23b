package checkpoint

import "fmt"

// openGGUF reads a GGUF file.
func openGGUF(path string, o OpenOptions) (*Bundle, error) {
	return nil, fmt.Errorf("%s: %w: GGUF files are not read yet", path, ErrUnsupported)
}

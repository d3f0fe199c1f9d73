package dockerengine

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Load starts to load one archive of images. The engine takes what is written; Close
// waits for its answer and returns its error.
func (e *Engine) Load(ctx context.Context) (io.WriteCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	l := &loading{pipe: w, done: make(chan struct{})}
	go func() {
		defer cancel()
		defer close(l.done)
		resp, err := e.do(ctx, http.MethodPost, "/images/load?quiet=1", r, http.Header{"Content-Type": {"application/x-tar"}})
		if err == nil {
			err = messages(resp.Body, nil)
		}
		if err != nil {
			l.err = fmt.Errorf("load into the Docker engine at %s: %w", e.Addr, err)
		}
		// What is written from now on fails with the engine's reason.
		_ = r.CloseWithError(l.failure()) // never fails
	}()
	return l, nil
}

// Save writes an archive of an image to w, as docker save does.
func (e *Engine) Save(ctx context.Context, names []string, w io.Writer) (err error) {
	resp, err := e.do(ctx, http.MethodGet, "/images/get?"+url.Values{"names": names}.Encode(), nil, nil)
	if err != nil {
		return fmt.Errorf("save %s of the Docker engine at %s: %w", strings.Join(names, ", "), e.Addr, err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	_, err = io.Copy(w, resp.Body)
	return err
}

// Credentials are those of a registry, as docker login stores them.
type Credentials struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
	ServerAddress string `json:"serveraddress,omitempty"`
}

// header is the header in which an engine takes credentials.
func (c Credentials) header() (http.Header, error) {
	dt, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return http.Header{"X-Registry-Auth": {base64.URLEncoding.EncodeToString(dt)}}, nil
}

// Push pushes an image that the engine holds and returns the digest that it has in the
// registry.
func (e *Engine) Push(ctx context.Context, name, tag string, c Credentials) (digest string, err error) {
	header, err := c.header()
	if err != nil {
		return "", err
	}
	resp, err := e.do(ctx, http.MethodPost, "/images/"+name+"/push?"+url.Values{"tag": {tag}}.Encode(), nil, header)
	if err == nil {
		err = messages(resp.Body, func(aux json.RawMessage) {
			var pushed struct{ Digest string }
			if json.Unmarshal(aux, &pushed) == nil && pushed.Digest != "" {
				digest = pushed.Digest
			}
		})
	}
	if err != nil {
		return "", fmt.Errorf("push %s:%s from the Docker engine at %s: %w", name, tag, e.Addr, err)
	}
	return digest, nil
}

// Pull pulls an image.
func (e *Engine) Pull(ctx context.Context, ref string) error {
	resp, err := e.do(ctx, http.MethodPost, "/images/create?"+url.Values{"fromImage": {ref}}.Encode(), nil, nil)
	if err != nil {
		return err
	}
	return messages(resp.Body, nil)
}

// messages reads the engine's messages to the end, and closes the stream. aux takes those
// for programs.
func messages(body io.ReadCloser, aux func(json.RawMessage)) (err error) {
	defer func() { err = errors.Join(err, body.Close()) }()
	dec := json.NewDecoder(body)
	for {
		var message struct {
			Error       string
			ErrorDetail struct{ Message string }
			Aux         json.RawMessage
		}
		switch err := dec.Decode(&message); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read its answer: %w", err)
		case message.ErrorDetail.Message != "":
			return errors.New(message.ErrorDetail.Message)
		case message.Error != "":
			return errors.New(message.Error)
		case len(message.Aux) > 0 && aux != nil:
			aux(message.Aux)
		}
	}
}

// loading is an archive on its way to the engine.
type loading struct {
	pipe *io.PipeWriter
	done chan struct{}
	err  error // valid once done is closed
}

var errLoadEnded = errors.New("the Docker engine has ended the load")

func (l *loading) failure() error {
	if l.err != nil {
		return l.err
	}
	return errLoadEnded
}

// Write implements io.Writer.
func (l *loading) Write(p []byte) (int, error) {
	n, err := l.pipe.Write(p)
	if errors.Is(err, errLoadEnded) {
		// The engine has all it wants; archives end in padding.
		return len(p), nil
	}
	return n, err
}

// Close implements io.Closer.
func (l *loading) Close() error {
	err := l.pipe.Close()
	<-l.done
	return errors.Join(err, l.err)
}

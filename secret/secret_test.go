package secret

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const canary = "canary-7f3a9b"

// spellings are the forms in which a printer could show the canary.
var spellings = []string{
	canary,
	strings.ToUpper(canary),
	fmt.Sprintf("%x", canary),
	fmt.Sprintf("%X", canary),
	fmt.Sprintf("% x", canary),
	fmt.Sprint(string([]byte(canary))),
	fmt.Sprint([]rune(canary)),
}

func requireHidden(t *testing.T, printed string) {
	t.Helper()
	for _, spelling := range spellings {
		require.NotContains(t, printed, spelling)
	}
}

// holder keeps secrets in every place where a printer reaches them by
// reflection, without asking their methods.
type holder struct {
	Exported   Secret
	unexported Secret
	pointer    *Secret
	list       []Secret
	byName     map[string]Secret
	any        any
	nested     struct{ deep Secret }
}

func newHolder() holder {
	s := New(canary)
	h := holder{Exported: s, unexported: s, pointer: &s, list: []Secret{s}, byName: map[string]Secret{"k": s}, any: s}
	h.nested.deep = s
	return h
}

func TestNoVerbPrintsASecret(t *testing.T) {
	s, h := New(canary), newHolder()
	values := map[string]any{
		"the secret": s, "a pointer": &s, "a list": []Secret{s}, "an array": [1]Secret{s},
		"a map": map[string]Secret{"k": s}, "a key": map[Secret]int{s: 1},
		"a struct": h, "a pointer to a struct": &h, "a list of structs": []holder{h},
	}
	for name, value := range values {
		for verb := range rune(128) {
			for _, flags := range []string{"", "+", "#", "-", " ", "0", "+#", "# ", "40", ".3"} {
				requireHidden(t, fmt.Sprintf("%"+flags+string(verb), value))
			}
		}
		requireHidden(t, fmt.Sprint(value))
		requireHidden(t, fmt.Sprintln(name, value))
	}
	require.Equal(t, "***", fmt.Sprintf("%s", s))
	require.Equal(t, "***", fmt.Sprintf("%#v", s))
	require.Equal(t, "***", fmt.Sprintf("%x", s))
	require.Equal(t, "***", s.String())
	require.Equal(t, "***", s.GoString())
}

func TestNoErrorOrPanicShowsASecret(t *testing.T) {
	s := New(canary)
	err := errors.Join(fmt.Errorf("refreshing %v: %w", s, errors.New("refused")), fmt.Errorf("%+v", newHolder()))
	requireHidden(t, err.Error())
	requireHidden(t, fmt.Sprintf("%+v", err))

	defer func() { requireHidden(t, fmt.Sprint(recover())) }()
	panic(s)
}

func TestNoEncoderWritesASecret(t *testing.T) {
	type outer struct{ S Secret }
	s, h := New(canary), newHolder()
	for _, value := range []any{s, &s, h, &h, []Secret{s}, map[string]Secret{"k": s}, map[Secret]string{s: "v"}} {
		encoded, err := json.Marshal(value)
		require.NoError(t, err)
		requireHidden(t, string(encoded))
	}
	encoded, err := json.Marshal(s)
	require.NoError(t, err)
	require.JSONEq(t, `"***"`, string(encoded))

	text, err := s.MarshalText()
	require.NoError(t, err)
	require.Equal(t, "***", string(text))

	encoded, err = xml.Marshal(outer{s})
	require.NoError(t, err)
	requireHidden(t, string(encoded))

	var gobbed bytes.Buffer
	require.Error(t, gob.NewEncoder(&gobbed).Encode(outer{s}), "gob asks no method: it must see nothing at all")
	requireHidden(t, gobbed.String())
}

func TestNoLoggerWritesASecret(t *testing.T) {
	s, h := New(canary), newHolder()
	var out bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).With("with", s).Info("said", "s", s, "p", &s, "h", h, "hp", &h, slog.Group("g", "s", s))
	}
	for _, encoder := range []zapcore.Encoder{
		zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()),
		zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()),
	} {
		log := zap.New(zapcore.NewCore(encoder, zapcore.AddSync(&out), zap.DebugLevel))
		log.With(zap.Any("with", s)).Info("said",
			zap.Any("s", s), zap.Any("p", &s), zap.Any("h", h), zap.Any("hp", &h), zap.Any("l", []Secret{s}),
			zap.Reflect("r", s), zap.Reflect("rh", h), zap.Stringer("st", s), zap.Any("m", map[string]Secret{"k": s}))
		log.Sugar().Infow("said", "s", s, "h", h)
		log.Sugar().Infof("%v %+v %#v", s, h, h)
	}
	require.Contains(t, out.String(), "***")
	requireHidden(t, out.String())
}

func TestASecretGivesItsValueOnlyWhenAsked(t *testing.T) {
	require.Equal(t, canary, New(canary).Reveal())
	require.False(t, New(canary).IsZero())

	require.True(t, Secret{}.IsZero())
	require.True(t, New("").IsZero())
	require.Empty(t, Secret{}.Reveal())
	require.Equal(t, "***", fmt.Sprint(Secret{}), "whether a secret is set is not printed either")
}

func TestSecretsAreEqualByValue(t *testing.T) {
	for _, row := range []struct {
		a, b  Secret
		equal bool
	}{
		{New("a"), New("a"), true},
		{New("a"), New("b"), false},
		{New("a"), New("ab"), false},
		{New("a"), Secret{}, false},
		{Secret{}, New(""), true},
	} {
		require.Equal(t, row.equal, row.a.Equal(row.b))
		require.Equal(t, row.equal, row.b.Equal(row.a))
	}
}
